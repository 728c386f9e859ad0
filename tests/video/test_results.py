"What people act on, end to end: rules found at the right second, clips that play, and pictures that are not for others"
import functools, json, time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from brightness import Brightness
from terminal import fails, run

from paligemma_vqa.files import read_table
from paligemma_vqa.media.reading import frame_at, video_info
from paligemma_vqa.media.sound import has_sound, sound_between, RATE
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.video.analyze import analyze_video
from paligemma_vqa.video.clips import wanted_moments
from paligemma_vqa.video.folder import analyze_folder
from paligemma_vqa.video.privacy import GRAY, hidden_of
from paligemma_vqa.video.results import write_results
from paligemma_vqa.video.rules import parse_rule


class Theatre(Brightness):
    "Bright means outside, middle is phase 2 of cutting, dark is nothing"
    schema = EventSchema(events=('cutting', 'outside'), phases=('1', '2'), private=('outside',))

    def answer(self, image):
        from types import SimpleNamespace
        self.asked += 1
        level = image.mean()
        cutting = [0.05, 0.05, 0.9] if 60 < level < 160 else [0.98, 0.01, 0.01]
        outside = [0.02, 0.97, 0.01] if level >= 160 else [0.99, 0.005, 0.005]
        return SimpleNamespace(probabilities=np.array([cutting, outside]), latency_ms=0.0)


def recording(path, levels, fps=10, tone=True, seconds_each=1):
    "A video with sound in which each second has a gray level, and a pattern that a blank picture does not have"
    stripes = np.zeros((96, 128, 3), np.int16); stripes[:, ::8] = 40
    with av.open(str(path), 'w') as container:
        pictures = container.add_stream('libx264', rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = 128, 96, 'yuv420p'
        sound = container.add_stream('aac', rate=48000, layout='mono') if tone else None
        for i in range(int(len(levels) * fps * seconds_each)):
            image = np.clip(stripes + levels[i // round(fps * seconds_each)], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        for start in range(0, int(len(levels) * seconds_each * 48000) if tone else 0, 1024):
            wave = (np.sin(2 * np.pi * 440 * (start + np.arange(1024)) / 48000) * 0.5).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format='fltp', layout='mono')
            frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), start
            container.mux(sound.encode(frame))
        if tone: container.mux(sound.encode())
    return path


LEVELS = [0] * 4 + [100] * 6 + [0] * 4 + [200] * 4 + [0] * 2 + [100] * 4   # cutting 4-10 and 20-24 s, outside 14-18 s


@pytest.fixture(scope='module')
def case(tmp_path_factory): return recording(tmp_path_factory.mktemp('case') / 'a case.mp4', LEVELS)


def detail(video, time_s): return frame_at(video, time_s).image[40:90, 60:].astype(int).std()   # beside the chips


@pytest.mark.slow
def test_the_room_is_never_shown_or_heard(case, tmp_path):
    result = analyze_video(Theatre(), case, tmp_path, method='raw')
    clips = wanted_moments(['cutting', 'outside'], result.schema)
    write_results(result, case, clips=clips, before_s=5, after_s=5)
    annotated = tmp_path / 'annotated.mp4'
    assert [detail(annotated, time_s) > 8 for time_s in (2, 7, 13, 15, 17.9, 19, 22)] == [True, True, True, False, False, True, True]
    assert np.abs(frame_at(annotated, 16).image[40:90, 60:].astype(int) - GRAY).max() < 12
    heard = np.concatenate(list(sound_between(annotated)), axis=1)
    loud = [np.abs(heard[:, int(t * RATE):][:, :RATE // 2]).mean() > 0.05 for t in (2, 10, 15, 17, 20)]
    assert loud == [True, True, False, False, True]
    rows = {row['number']: row for _, row in read_table((tmp_path / 'clips/clips.csv').read_text())}
    assert [(row['event'], row['how']) for row in rows.values()] == [('cutting', 'written'), ('outside', 'private'), ('cutting', 'written')]
    last = tmp_path / 'clips' / rows['3']['file']           # begins at 15 s, while the camera was outside
    assert [detail(last, time_s) > 8 for time_s in (0.5, 2.5, 4.5, 7)] == [False, False, True, True]
    assert not list((tmp_path / 'clips').glob('002*'))
    page = (tmp_path / 'review.html').read_text()
    assert 'data:video/mp4' in page                       # of the annotated video, which is blank there
    write_results(result, case, private=[], clips=clips)    # asked for: everything is shown, also in the clips
    assert len(list((tmp_path / 'clips').glob('*.mp4'))) == 3


def test_a_frame_that_smoothing_overrules_is_hidden_all_the_same(tmp_path):
    levels = [0] * 20; levels[7] = 200
    path = recording(tmp_path / 'short.mp4', levels, tone=False, seconds_each=0.2)
    result = analyze_video(Theatre(), path, tmp_path / 'out', fps=5)     # one frame of twenty, which the HMM does not believe
    assert not [s for s in result.segments if s.event == 'outside']
    assert hidden_of(result) and detail(tmp_path / 'out/annotated.mp4', 1.5) < 8


def test_an_unknown_private_event_is_an_error_before_the_work(case, tmp_path):
    predictor = Theatre()
    with pytest.raises(VQAError, match="private event 'room' is not an event"):
        analyze_video(predictor, case, tmp_path / 'out', private=('room',))
    assert predictor.asked == 0 and not (tmp_path / 'out').exists()


def test_a_part_with_sound_on_the_clock_of_the_recording(case, tmp_path):
    result = analyze_video(Theatre(), case, tmp_path, start_s=3, end_s=11, method='raw', private=())
    assert [(s.event, s.start_s, s.end_s) for s in result.segments] == [('cutting', pytest.approx(4, abs=0.3), pytest.approx(10, abs=0.3))]
    info = video_info(tmp_path / 'annotated.mp4')
    assert (info.start_s, info.duration_s, info.fps) == (3, 11, 10) and has_sound(tmp_path / 'annotated.mp4')
    write_results(result, case)
    assert json.loads((tmp_path / 'numbers.json').read_text())['duration_s'] == 8
    assert '"start_s": 3.0' in (tmp_path / 'review.html').read_text()


def test_the_tables_of_a_folder_have_marks_and_numbers(case, tmp_path):
    (tmp_path / 'in').mkdir()
    for name in ('=one.mp4', 'two.mp4'): (tmp_path / 'in' / name).write_bytes(case.read_bytes())
    (tmp_path / 'in/broken.mp4').write_bytes(b'nothing')
    from paligemma_vqa.video.review import Doubt
    finish = functools.partial(write_results, doubt=Doubt(0.0, 5.0), rules=[parse_rule('no cutting longer than 5 s', Theatre.schema)])
    outcomes = analyze_folder(Theatre(), tmp_path / 'in', tmp_path / 'out', finish=finish, annotated=False, method='raw')
    assert [outcome.status for outcome in outcomes] == ['done', 'failed', 'done']
    rows = [row for _, row in read_table((tmp_path / 'out/segments.csv').read_text())]
    assert {(row['event'], row['is_doubtful']) for row in rows} == {('cutting', 'False'), ('cutting', 'True'), ('outside', 'True')}
    assert "\n'=one.mp4," in (tmp_path / 'out/videos.csv').read_text()
    over = json.loads((tmp_path / 'out/numbers_over_videos.json').read_text())
    assert len(over['videos']) == 2 and over['order'][0]['share_mean'] == 1 and over['budget'][0]['count_mean'] == 2
    assert json.loads((tmp_path / 'out/two/violations.json').read_text())[0]['time_s'] == pytest.approx(9, abs=0.3)


def test_options_are_read_before_a_model_is_loaded(case, tmp_path):
    given = ('video', '--video_path', case, '--model', 'no/such', '--output', tmp_path)
    fails(*given, '--start', 'soon', says=["--start is 'soon'"])
    fails(*given, '--start', '20', '--end', '0:10', says=['--end 0:10 is not after --start 20'])
    fails(*given, '--before', '3', says=['--before', '--clips'])
    fails('video', '--source', case, '--model', 'tiny', '--clips', 'A', says=['--clips does nothing when a stream is watched'])


def until(page, expression, wait_s=20):
    end = time.monotonic() + wait_s
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.browser
def test_a_clip_plays_and_the_page_covers_the_room(browser, case, tmp_path):
    result = analyze_video(Theatre(), case, tmp_path, method='raw', annotated=False, start_s=3)
    write_results(result, case, clips=wanted_moments(['cutting:2'], result.schema), before_s=0, after_s=0)
    page = browser.new_page(viewport=dict(width=1200, height=800))
    errors = []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.goto((tmp_path / 'clips/index.html').as_uri())
    assert page.locator('video').count() == 2
    page.evaluate("document.querySelector('video').muted = true; document.querySelector('video').play(); 0")
    until(page, "document.querySelector('video').currentTime > 0.5")
    assert page.evaluate("document.querySelector('video').videoWidth") == 128
    page.goto((tmp_path / 'review.html').as_uri())
    until(page, "document.querySelector('video').readyState >= 2 && document.querySelector('video').currentTime >= 3")
    assert page.locator('.cover').is_hidden()
    page.locator('.filters select').select_option(label='1')         # outside is in phase 1
    page.locator('.moments button').first.click()
    until(page, "Math.abs(document.querySelector('video').currentTime - 14) < 0.4")
    assert page.locator('.cover').is_visible() and page.evaluate("document.querySelector('video').muted")
    assert page.locator('.moments img').count() == 0                 # and there is no small picture of it
    page.keyboard.press('Home')
    until(page, "document.querySelector('.cover').hidden")
    assert page.locator('svg .axis').first.text_content() in ('0:05', '0:04', '0:03')   # the timeline begins with the pictures
    assert not errors
    page.close()


@pytest.mark.slow
@pytest.mark.browser
def test_three_hours_end_to_end(browser, three_hours, tmp_path):
    "A drawn recording of three hours: a rule broken on purpose is found at its second, its moment is a clip that plays, the page stays quick"
    path = three_hours
    result = analyze_video(Brightness(), path, tmp_path / 'out', fps=1, method='raw', annotated=False)   # its own tests write and play it
    assert len(result.times_s) == 10_800
    first = result.segments[len(result.segments) // 2]
    rule = parse_rule(f'no {first.event} {first.phase} longer than {first.end_s - first.start_s - 5:g} s', result.schema)
    broken = write_results(result, path, rules=[rule], clips=wanted_moments([f'{first.event}:{first.phase}'], result.schema)[:1], before_s=2, after_s=2)
    expected = [s.end_s - 5 for s in result.segments if (s.event, s.phase) == (first.event, first.phase) and s.end_s - s.start_s >= first.end_s - first.start_s - 1]
    assert min(abs(violation.time_s - (first.end_s - 5)) for violation in broken) < 0.01 and len(broken) <= len(expected)
    page, began = browser.new_page(viewport=dict(width=1400, height=900)), time.monotonic()
    page.goto((tmp_path / 'out/review.html').as_uri())
    until(page, "document.querySelector('video').readyState >= 1", 60)
    count = page.locator('.moments li').count()
    print(f'{len(result.times_s)} frames, {count} moments, {(tmp_path / "out/review.html").stat().st_size / 1e6:.1f} MB, {time.monotonic() - began:.1f} s to open')
    page.locator('.rules button').first.click()
    until(page, f"Math.abs(document.querySelector('video').currentTime - {broken[0].time_s}) < 1.5", 60)
    clips = sorted((tmp_path / 'out/clips').glob('*.mp4'))
    page.goto((tmp_path / 'out/clips/index.html').as_uri())
    assert page.locator('video').count() == len(clips)
    page.evaluate("document.querySelector('video').play(); 0")
    until(page, "document.querySelector('video').currentTime > 0.5", 60)
    page.close()


@pytest.mark.slow
def test_bikes_end_to_end(bikes, tmp_path):
    done = run('video', '--video-path', bikes, '--model', 'tiny', '--output', tmp_path / 'out', '--fps', '2', '--method', 'raw', '--clips', 'A', '--clips', 'B', '--clips', 'C',
               '--clips', 'D', '--clips', 'E', '--before', '1', '--after', '1', '--json')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (tmp_path / 'out/annotated.mp4').stat().st_size < Path(bikes).stat().st_size
    clips = list((tmp_path / 'out/clips').glob('*.mp4'))
    assert bool(found['segments']) == bool(clips) and all(video_info(clip).duration_s > 0 for clip in clips)
