"The review page as a board uses it: in a browser, from a file, with a long video, and with names that want to run"
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from paligemma_vqa.schema import EventSchema, Segment
from paligemma_vqa.video.review import Doubt, write_review
from paligemma_vqa.video.rules import Violation
from paligemma_vqa.video.viewer import VideoViewer

pytestmark = pytest.mark.browser
HOSTILE = ("<script>document.title='hacked'</script>", "<img src=x onerror=document.title='hacked'>", "=HYPERLINK(1)", "</script><script>document.title='hacked'//")


def many(schema, count, duration_s, seed=0):
    generator, segments = np.random.default_rng(seed), []
    for start_s in np.sort(generator.uniform(0, duration_s - 60, count)):
        event, phase = schema.events[generator.integers(len(schema.events))], schema.phases[generator.integers(len(schema.phases))]
        segments.append(Segment(event, phase, float(start_s), float(start_s + generator.uniform(1, 60)), float(generator.uniform(0.3, 1))))
    return segments


def until(page, expression, wait_s=20):
    "`wait_for_function` needs eval, which the page forbids"
    end = time.monotonic() + wait_s
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def keep(page, name):
    if folder := os.environ.get('SCREENSHOTS'): page.screenshot(path=str(Path(folder) / name), full_page=True)


@pytest.mark.slow
def test_three_hours_and_300_segments_are_looked_through(browser, three_hours, tmp_path):
    schema = EventSchema(events=('dissection', 'clipping', 'cutting', 'bleeding', 'irrigation'), phases=('1', '2', '3', '4'))
    segments = many(schema, 300, 3 * 3600)
    broken = [Violation('no bleeding longer than 30 s', 'bleeding for longer than 30 s', 5000.0, 4970.0, 5010.0)]
    write_review(tmp_path / 'review.html', three_hours, segments, schema, violations=broken, embed_mb=0, doubt=Doubt(0.5), started_at='2026-11-27T08:00:00+00:00')
    page = browser.new_page(viewport=dict(width=1400, height=900), accept_downloads=True)
    errors = []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('console', lambda message: errors.append(message.text) if message.type == 'error' else None)
    page.goto((tmp_path / 'review.html').as_uri())
    until(page, "document.querySelector('video').readyState >= 1")
    assert page.evaluate("document.querySelector('video').duration") == pytest.approx(3 * 3600, abs=2)
    assert page.locator('.moments li').count() == 300 and page.locator('.bar.found').count() == 300
    ordered = sorted(segments, key=lambda s: s.start_s)
    page.locator('.moments button').nth(40).click()
    until(page, f"Math.abs(document.querySelector('video').currentTime - {ordered[40].start_s}) < 1.1")
    page.keyboard.press('n')
    until(page, f"Math.abs(document.querySelector('video').currentTime - {ordered[41].start_s}) < 1.1")
    page.locator('.filters input[type=checkbox]').nth(0).uncheck()
    assert page.locator('.moments li').count() == sum(s.event != 'dissection' for s in segments)
    page.locator('.filters select').select_option(label='3')
    page.locator('.filters input[type=number]').nth(0).fill('60')
    page.locator('.filters input[type=number]').nth(0).blur()
    kept = [s for s in segments if s.event != 'dissection' and s.phase == '3' and s.confidence >= 0.6]
    assert page.locator('.moments li').count() == len(kept) == page.locator('.bar.found').count()
    box = page.locator('svg.timeline').bounding_box()
    page.mouse.click(box['x'] + 120 + (box['width'] - 128) / 2, box['y'] + 60)
    until(page, "Math.abs(document.querySelector('video').currentTime - 5400) < 15")
    page.locator('.notes textarea').fill('Why so long?')
    page.locator('.notes .add').click()
    with page.expect_download() as download: page.locator('.notes .save').click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert saved['comments'][0]['text'] == 'Why so long?' and saved['comments'][0]['time_s'] == pytest.approx(5400, abs=15)
    page.locator('.rules button').click()
    until(page, "Math.abs(document.querySelector('video').currentTime - 5000) < 1.1")
    keep(page, 'review.png')
    page.keyboard.press('+'); page.keyboard.press('+'); page.keyboard.press('+')
    keep(page, 'zoomed.png')
    page.set_viewport_size(dict(width=420, height=800))
    keep(page, 'phone.png')
    assert not errors
    page.close()


def test_a_small_video_is_inside_and_plays(browser, bikes, tmp_path):
    schema = EventSchema(events=('bicycle', 'car'), phases=('comes', 'passes'))
    segments = [Segment('car', 'comes', 1.2, 3.4, 0.8), Segment('car', 'passes', 3.4, 6, 0.9), Segment('bicycle', 'passes', 3, 5.1, 0.95)]
    page_path = write_review(tmp_path / 'review.html', bikes, segments, schema, truth=segments[:1])
    page = browser.new_page(viewport=dict(width=1200, height=800))
    page.goto(page_path.as_uri())
    until(page, "document.querySelector('video').readyState >= 2")
    page.keyboard.press('n')
    until(page, "document.querySelector('video').currentTime > 1.19")
    page.evaluate("document.querySelector('video').muted = true")
    page.keyboard.press(' ')
    until(page, "document.querySelector('video').currentTime > 1.6")
    assert 'car comes' in page.locator('.said').inner_text()
    assert page.locator('.bar.truth').count() == 1 and 'upper half: truth' in page.locator('.legend').inner_text()
    keep(page, 'bikes.png')
    page.close()


def test_rules_say_what_they_rest_on_and_comments_are_not_lost_in_silence(browser, tmp_path):
    schema = EventSchema(events=('clipping', 'cutting'), phases=('1',))
    broken = [Violation('no cutting before clipping', 'cutting began before clipping', 8.0, 8.0, 9.0, '5.0 s before it were not seen'),
              Violation('no cutting longer than 1 s', 'cutting for longer than 1 s', 4.0, 3.0, 6.0)]
    path = write_review(tmp_path / 'review.html', None, [Segment('cutting', '1', 3, 6), Segment('cutting', '1', 8, 9)], schema, duration_s=20,
                        violations=broken, rules=['no cutting before clipping', 'no cutting longer than 1 s', 'clipping must happen'])
    page, asked = browser.new_page(viewport=dict(width=1000, height=700)), []
    page.on('dialog', lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.goto(path.as_uri())
    said = page.locator('.rules').inner_text()
    assert 'doubtful: 5.0 s before it were not seen' in said and said.count('doubtful') == 1 and 'Kept: clipping must happen' in said
    assert {text[0] for text in page.locator('svg .broken').all_text_contents()} == set('▽▼')
    page.reload()
    assert not asked                                   # nothing was written
    page.locator('.notes textarea').fill('Where is the clip?')
    page.locator('.notes .add').click()
    page.reload()
    assert asked == ['beforeunload']                   # written and not saved
    page.locator('.notes textarea').fill('Where is the clip?')
    page.locator('.notes .add').click()
    with page.expect_download(): page.locator('.notes .save').click()
    page.reload()
    assert asked == ['beforeunload']                   # saved
    nothing = write_review(tmp_path / 'kept.html', None, [], schema, duration_s=20, rules=['no cutting'])
    page.goto(nothing.as_uri())
    assert 'No rule was broken' in page.locator('.rules').inner_text()
    long = EventSchema(events=tuple(f'{name}{i}' for name in ('胆囊三角区解剖与胆囊管夹闭离断操作阶段', 'a very long name of something that happens ') for i in range(6)), phases=('1',))
    page.goto(write_review(tmp_path / 'long.html', None, [Segment(event, '1', 1, 2) for event in long.events], long, duration_s=20).as_uri())
    labels = page.locator('svg .name')
    shown = page.evaluate("[...document.querySelectorAll('svg .name')].map(label => label.firstChild.textContent)")
    assert len(set(shown)) == 12 and all('…' in text for text in shown)   # shortened, and still told apart
    left = page.locator('svg.timeline').bounding_box()['x']
    assert all(labels.nth(i).bounding_box()['x'] >= left for i in range(12))
    for size in ((1000, 500), (390, 800)):             # a low window and a phone: the list is there, and nothing lies over it
        page.set_viewport_size(dict(zip(('width', 'height'), size)))
        moments, tools = page.locator('.moments').bounding_box(), page.locator('.tools').bounding_box()
        assert moments['height'] >= 120 and moments['y'] + moments['height'] <= tools['y'] + 1
    keep(page, 'rules.png')
    page.close()


def test_names_do_not_run(browser, tmp_path):
    schema = EventSchema(events=HOSTILE, phases=('<b>1</b>', '2'))
    segments = [Segment(event, '<b>1</b>', i, i + 1, 0.9) for i, event in enumerate(HOSTILE)]
    path = write_review(tmp_path / 'review.html', None, segments, schema, title='</title><script>document.title="hacked"</script>',
                        comments=[dict(time_s=1, time='00:00:01.000', text=HOSTILE[1])])
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator('.moments li').count() == len(HOSTILE) and 'hacked</' not in page.title() and page.title() != 'hacked'
    assert page.locator('main img, main b').count() == 0 and HOSTILE[1] in page.locator('.comments').inner_text()
    assert 'Choose its file' in page.locator('.missing').inner_text()
    page.close()


def test_the_viewer_in_the_notebook_is_the_same_code(browser, bikes):
    "The widget's own JavaScript with a model that only remembers: what is drawn, clicks, keys, comments"
    schema = EventSchema()
    segments = [Segment('A', '1', 1, 3), Segment('A', '2', 3, 5), Segment('C', '1', 6, 7)]
    viewer = VideoViewer(bikes, segments, schema, truth=segments[:2])
    state = dict(content=viewer.content, css=viewer.css, time_s=0.0, comments=[])
    script = '''async ([source, state]) => {
        const { default: widget } = await import(URL.createObjectURL(new Blob([source], {type: 'text/javascript'})));
        const listeners = {};
        window.model = { get: name => state[name], save_changes: () => {}, on: (name, call) => listeners[name] = call,
                         set: (name, value) => { state[name] = value; listeners['change:' + name]?.(); if (name === 'time_s') listeners['change:picture']?.(); } };
        state.picture = new DataView(new ArrayBuffer(4));
        widget.render({ model: window.model, el: document.getElementById('here') });
        await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame); }'''
    page = browser.new_page(viewport=dict(width=1000, height=700))
    page.set_content('<div id="here" style="width:980px"></div>')
    page.evaluate(script, [viewer._esm if isinstance(viewer._esm, str) else str(viewer._esm), state])
    now = lambda: page.evaluate('window.model.get("time_s")')
    assert page.locator('.bar').count() == 5 and page.locator('.axis').count() > 3   # three that were found, two that are true
    box = page.locator('svg.timeline').bounding_box()
    page.mouse.click(box['x'] + 120 + (box['width'] - 128) / 2, box['y'] + 30)
    assert now() == pytest.approx(5, abs=0.05)
    for key, time_s in {'n': 6, 'p': 3, 'Home': 0, 'ArrowRight': 0.04, 'End': 10}.items():
        page.locator('svg.timeline').press(key)
        assert now() == pytest.approx(time_s, abs=0.05), key
    page.locator('.notes textarea').fill('here')
    page.locator('.notes .add').click()
    assert page.evaluate('window.model.get("comments")[0].text') == 'here'
    page.close()
