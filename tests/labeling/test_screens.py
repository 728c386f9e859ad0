"""The labeling tool on screens of all sizes: what is needed while labeling is seen at once and nothing is cut off.

Each test leaves pictures of the states it has checked in `screens/` beside this file (git ignores them), to be looked at."""
import re, shutil, subprocess, time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from jupyter_browser import NotebookPage, chromium_page, jupyter_lab, wait_for, write_notebook
from paligemma_vqa.schema import EventSchema

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip('playwright')
if not subprocess.run(['fc-list', ':lang=zh', 'family'], capture_output=True, text=True).stdout.strip():
    pytestmark.append(pytest.mark.skip(reason='no Chinese font, and boxes are narrower: apt-get install fonts-wqy-microhei'))
SCREENS = Path(__file__).with_name('screens')
LAPTOP, DESKTOP = (1366, 625), (1920, 937)      # what a browser's window leaves of 1366×768 and 1920×1080 for the page

LONG = EventSchema.preset('zh', phases=('动作开始之前的准备', '动作正在进行之中', '动作已经完成'), events=(
    '使用抓钳牵拉胆囊底部', '解剖胆囊三角区域', '夹闭胆囊管与胆囊动脉', '用剪刀切断胆囊管', '电凝钩剥离胆囊床', '冲洗与吸引腹腔积液', '取出装有胆囊的标本袋', '检查创面并缝合切口'))

SETUP = '''
import numpy as np
from paligemma_vqa.labeling import LabelingTool
class Guess:
    def __init__(self, schema, codes):
        self.annotation, self.probabilities = schema.from_codes(codes), np.full((len(schema.events), len(schema.phases) + 1), 0.05)
        self.probabilities[np.arange(len(codes)), codes] = 0.8
class Guesser:
    def __init__(self, schema, gate=''): self.schema, self.gate = schema, gate
    def predict(self, images):
        import os, time
        while self.gate and not os.path.exists(self.gate): time.sleep(0.05)
        return [Guess(self.schema, [2, *[0] * (len(self.schema.events) - 1)]) for _ in images]
def show(folder, annotator='Dr Anna-Katharina Example', **options):
    global tool
    tool = LabelingTool(folder, annotator=annotator, pause_s=0.3, **options)
    tool.keyboard.stall_ms = 20_000
    return tool
'''

# Texts that are cut off, parts of the fold that lie outside of what is seen, and parts that overlap.
CUT_OFF = """() => {
  const root = [...document.querySelectorAll('.vqa-labeling')].pop(), isFull = root.matches(':popover-open');
  const seen = isFull ? {top: 0, right: innerWidth, bottom: innerHeight} : root.closest('.jp-WindowedPanel-outer').getBoundingClientRect(), wrong = [], isSeen = e => e.getClientRects().length > 0;
  for (const e of root.querySelectorAll('.vqa-header > *, .vqa-counts > *, .vqa-event, .vqa-phase, .vqa-toolbar button, .vqa-message > span, .vqa-playbar > *')) {
    if (!isSeen(e) || e.matches('.vqa-name, .vqa-progress')) continue;
    const box = e.getBoundingClientRect();
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) wrong.push(`cut: ${e.className} "${e.textContent.trim()}" ${e.scrollWidth} > ${e.clientWidth}`);
    if (box.right > seen.right + 1 || box.bottom > seen.bottom + 1 || box.top < seen.top - 1) wrong.push(`outside: ${e.className} "${e.textContent.trim()}"`);
    for (let up = e.parentElement; up && up !== root; up = up.parentElement) {
      const outer = up.getBoundingClientRect(), hidden = getComputedStyle(up).overflowX !== 'visible' || getComputedStyle(up).overflowY !== 'visible';
      if (hidden && !up.matches('.vqa-rows-box, .vqa-differing-box') && (box.right > outer.right + 1 || box.bottom > outer.bottom + 1)) { wrong.push(`hidden by ${up.className}: "${e.textContent.trim()}"`); break; }
    }
  }
  const rows = root.querySelector('.vqa-rows-box');
  if (rows.scrollHeight > rows.clientHeight + 1) wrong.push('the rows have to be scrolled');
  for (const name of ['.vqa-picture', '.vqa-timeline', '.vqa-saved', '.vqa-playbar']) {
    const e = root.querySelector(name);
    if (!e || !isSeen(e)) continue;
    const box = e.getBoundingClientRect();
    if (box.bottom > seen.bottom + 1 || box.top < seen.top - 1 || box.right > seen.right + 1) wrong.push(`not seen: ${name}`);
  }
  const list = root.querySelector('.vqa-differing-box'), cases = [...list.querySelectorAll('.vqa-case')].slice(0, 3), frame = list.getBoundingClientRect();
  if (cases.some(e => e.getBoundingClientRect().bottom > frame.bottom + 1)) wrong.push('fewer than three pictures of the review are seen');
  if (root.querySelector('.vqa-picture').getBoundingClientRect().height < 90) wrong.push('the picture is tiny');
  return wrong;
}"""


def make_pictures(folder, sizes, count=6, schema=LONG):
    "Videos of one size each, with a round mark that must stay round"
    (folder/'images').mkdir(parents=True)
    for name, (width, height) in sizes.items():
        for i in range(count):
            picture = Image.new('RGB', (width, height), (40 + 30 * i, 70, 90))
            radius = min(width, height) // 3
            ImageDraw.Draw(picture).ellipse((width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius), outline='white', width=max(radius // 20, 2))
            picture.save(folder/f'images/{name}_{i:06d}.jpg')
    if schema: schema.save(folder/'schema.json')
    return folder


class Screen:
    "One tool on one page"
    def __init__(self, page): self.page = page
    def wait_ready(self):
        self.page.locator(".vqa-labeling[data-ready='1']").last.wait_for(timeout=90_000)
        time.sleep(0.4)
    def press(self, *keys):
        for key in keys: self.page.keyboard.press(key)
    def has(self, text, where='.vqa-labeling'): self.page.locator(where, has_text=text).last.wait_for(timeout=20_000)
    def focus(self): self.page.locator('.vqa-picture').last.click()
    def cut_off(self): return self.page.evaluate(CUT_OFF)
    def shoot(self, name, is_checked=True):
        SCREENS.mkdir(exist_ok=True)
        time.sleep(0.3)
        self.page.screenshot(path=SCREENS/f'{name}.png')
        if is_checked: assert self.cut_off() == [], name


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('screens')
    with jupyter_lab(folder) as address: yield folder, address


def open_tool(page, folder, address, name, call):
    write_notebook(folder/f'{name}.ipynb', SETUP, call, '"below the tool"')
    notebook, screen = NotebookPage(page, address, f'{name}.ipynb'), Screen(page)
    notebook.run_all()
    screen.wait_ready()
    return notebook, screen


@pytest.mark.parametrize('name, size, scale', [('laptop', LAPTOP, 1), ('desktop', DESKTOP, 1), ('zoomed', (683, 312), 2)])
def test_every_shape_of_picture_on_every_screen(lab, name, size, scale):
    folder, address = lab
    shapes = dict(landscape=(640, 360), portrait=(360, 640), square=(480, 480), uhd=(3840, 2160))
    make_pictures(folder/name, shapes)
    with chromium_page(*size, device_scale_factor=scale) as (page, errors):
        notebook, screen = open_tool(page, folder, address, name, f'show({name!r}, predictor=Guesser(__import__("paligemma_vqa").schema.EventSchema.load({name!r} + "/schema.json")))')
        screen.has('80%')
        if name == 'zoomed': screen.press('w'); time.sleep(0.5)      # the notebook shows half of the tool then; a key fills the window with it
        for shape in shapes:
            first = next(i for i, item in enumerate(sorted(p.name for p in (folder/name/'images').iterdir())) if item.startswith(shape))
            while shape not in page.locator('.vqa-name').last.inner_text(): screen.press('End', 'ArrowRight'); time.sleep(0.3)
            screen.press('b', '3')
            screen.has('holds in the frames') if first == 0 else time.sleep(0.3)
            screen.shoot(f'{name}_{shape}', is_checked=True)
        if name != 'zoomed': assert page.locator('[data-command=confirm]').last.is_visible()
        if name != 'zoomed': screen.press('w'); time.sleep(0.5); screen.shoot(f'{name}_full_window')
        assert not errors


def test_the_dark_theme(tmp_path):
    make_pictures(tmp_path/'dark', dict(v=(640, 360)))
    with jupyter_lab(tmp_path, 'JupyterLab Dark') as address, chromium_page(*LAPTOP) as (page, errors):
        notebook, screen = open_tool(page, tmp_path, address, 'dark', "show('dark')")
        screen.focus()
        screen.press('a', '2', 'Enter', 'b', '1', 'i', 'ArrowRight')
        screen.has('1 labeled of 6')
        screen.shoot('dark')
        paper, ink = page.evaluate("() => { const s = getComputedStyle(document.querySelector('.vqa-labeling')); return [s.backgroundColor, s.color]; }")
        def light(color): return sum(float(part) for part in re.findall(r'[\d.]+', color)[:3])
        assert light(paper) < 150 < 400 < light(ink)


def test_eight_states_are_true(lab):
    folder, address = lab
    make_pictures(folder/'states', dict(v=(320, 180)), 12)
    with chromium_page(*LAPTOP) as (page, errors):
        call = 'show("states", predictor=Guesser(__import__("paligemma_vqa").schema.EventSchema.load("states/schema.json"), "go"), queue="uncertain")'
        notebook, screen = open_tool(page, folder, address, 'states', call)
        # 1: the model is looking, and the order waits for it
        screen.has('model looking'); screen.has('provisional')
        screen.shoot('1_model_looking')
        (folder/'go').touch()
        page.wait_for_function("() => !document.querySelector('.vqa-looking')", timeout=60_000)
        page.locator('.vqa-labeling select').first.select_option(label='in time order')
        screen.has('queue 1 of 12')
        # the menu gave the keys back: 2: a label that holds, and one not finished
        screen.press('Home', 'a', '2')
        screen.has('holds in the frames that follow')
        screen.has('7 open')
        screen.shoot('2_holds')
        # in the next frame it is outlined, and nothing else is said there
        screen.press('ArrowRight'); screen.has('not labeled', '.vqa-badge')
        page.locator('.vqa-phase.vqa-on.vqa-held').last.wait_for()
        assert page.locator('.vqa-phase.vqa-on').count() == 1
        screen.press('ArrowLeft')
        # 3: a selected run; ten at once are ten
        screen.press('Shift+PageDown')
        screen.has('10 selected')
        screen.shoot('3_ten_selected')
        screen.press('Enter')
        screen.has('10 labeled of 12')
        # 4: Esc asks, and two d do no harm
        cells = notebook.cells()
        screen.press('Escape')
        screen.has('The keys stay with this tool')
        screen.shoot('4_esc_asks')
        screen.press('d', 'd'); time.sleep(0.4)
        assert notebook.cells() == cells
        screen.press('Escape', 'q')
        screen.has('Keys are off')
        screen.shoot('5_keys_off')
        screen.press('d', 'd'); time.sleep(0.6)
        assert notebook.cells() == cells and page.locator('.jp-Dialog').count() == 0
        # 6: a picture that was deleted is not labeled; the refusal is no "NOT SAVED", and goes when work goes on
        screen.focus()
        (folder/'states/images/v_000011.jpg').unlink()
        screen.press('End', 'b', '1')
        screen.has('deleted or renamed', '.vqa-message')
        assert '✓ saved' in page.locator('.vqa-saved').last.inner_text()
        screen.shoot('6_deleted_picture')
        screen.press('ArrowLeft')
        # 7: new pictures are offered and taken, without a jump
        for i in (20, 21): shutil.copy(folder/'states/images/v_000000.jpg', folder/f'states/images/v_{i:06d}.jpg')
        screen.has('2 new pictures in the folder.')
        where = page.locator('.vqa-where').last.inner_text()
        screen.shoot('7_new_pictures')
        page.locator('[data-command=take_new]').last.click()
        screen.has('labeled of 14') if (folder/'states/images/v_000011.jpg').exists() else screen.has('labeled of 13')
        assert page.locator('.vqa-where').last.inner_text() == where
        # 8: a restarted kernel: nothing jumps, and nothing says saved
        screen.focus()
        screen.press('c', '1', 'i', 'ArrowLeft'); time.sleep(1)
        box = page.locator('.vqa-picture').last.bounding_box()
        page.get_by_role('menuitem', name='Kernel', exact=True).click()
        page.get_by_role('menuitem', name=re.compile('^Restart Kernel…')).click()
        page.locator('.jp-Dialog .jp-mod-accept').click()
        page.locator(".vqa-pill[data-state='dead']").last.wait_for(timeout=60_000)
        screen.has('The kernel was restarted or closed')
        screen.shoot('8_kernel_restarted', is_checked=False)
        assert page.locator('.vqa-saved').last.is_hidden()
        now = page.locator('.vqa-picture').last.bounding_box()
        assert abs(now['x'] - box['x']) < 2 and abs(now['width'] - box['width']) < 2
        # and an interval that was open is asked about
        notebook.wait_idle()
        notebook.run_all()
        screen.wait_ready()
        screen.has('Open when the tool stopped')
        screen.shoot('9_open_interval')
        page.locator('[data-command=resume_intervals]').last.click()
        screen.has('Stop interval')
        # a cell run again by Shift+Enter at the end of the notebook makes an empty cell with the cursor in it: the keys are the tool's
        page.locator('.jp-CodeCell').last.locator('.cm-content').click()
        for _ in range(2): page.keyboard.press('Control+Shift+Home'); page.keyboard.press('Delete')
        page.keyboard.type("show('states')"); page.keyboard.press('Shift+Enter')
        page.wait_for_function("() => document.querySelectorAll('.vqa-labeling').length > 1 && [...document.querySelectorAll('.vqa-labeling')].pop().dataset.keys === 'on'", timeout=60_000)


def test_a_review_of_three(lab):
    folder, address = lab
    make_pictures(folder/'review', dict(v=(320, 180)), 6)
    from paligemma_vqa.labeling import LabelStore
    for name, phase in (('Dr Anna-Katharina Example', 0), ('Prof Bertram Longname-Someone', 1), ('Carla', 2)):
        with LabelStore(folder/'review', name) as store:
            for i, item in enumerate(store.items): store.annotate(item, {LONG.events[0]: LONG.phases[phase if i < 3 else 0]})
    with chromium_page(*LAPTOP) as (page, errors):
        notebook, screen = open_tool(page, folder, address, 'review', "show('review', annotator='Dora', queue='review')")
        screen.has('3 of 3 to settle')
        text = page.locator('.vqa-labeling').last.inner_text()
        for name in ('Dr Anna-Katharina Example', 'Prof Bertram Longname-Someone', 'Carla'): assert name in text
        assert page.locator('.vqa-differing.vqa-active').count() == 1 and page.locator('.vqa-case').count() == 3
        assert 'agreement (κ' in page.locator('.vqa-agreement').inner_text() or 'pictures alike' in page.locator('.vqa-agreement').inner_text()
        screen.shoot('10_review')
        assert page.locator('.vqa-differing.vqa-active').last.is_visible() and page.locator('[data-command^=take]').last.is_visible()
        screen.press('Alt+2'); screen.has('2 of 3 to settle')
        screen.press('Alt+1'); screen.has('1 of 3 to settle')
        page.locator('[data-command="take 2"]').last.click()
        screen.has('All settled'); screen.has('settled by Dora', '.vqa-header'); screen.has('All 3 settled')
        assert 'not finished' not in page.locator('.vqa-header').last.inner_text()
        screen.shoot('11_all_settled')


@pytest.mark.parametrize('layout', ['azerty', 'cyrillic', 'chinese'])
def test_twelve_events_on_any_keyboard(lab, layout):
    "Digits are where they are printed, letters are what they print; what an input method swallows is told by its place"
    folder, address = lab
    schema = EventSchema.preset('zh', events=tuple(f'事件{i}' for i in '一二三四五六七八九十甲乙'), phases=('开始', '进行', '结束'))
    make_pictures(folder/layout, dict(v=(320, 180)), 14, schema)
    cyrillic = dict(zip('qwertyuiopasdfghjklzxcvbnm', 'йцукенгшщзфывапролдячсмить'))
    azerty = dict(zip('azqw', 'qwaz'))           # the key that prints a stands where a US keyboard has q
    with chromium_page(*LAPTOP) as (page, errors):
        notebook, screen = open_tool(page, folder, address, layout, f"show({layout!r}, annotator='ann')")
        screen.focus()
        def key(letter):
            place = azerty.get(letter, letter) if layout == 'azerty' else letter
            printed = {'azerty': letter, 'cyrillic': cyrillic[letter], 'chinese': 'Process'}[layout]
            dispatch(printed, f'Key{place.upper()}')
        def digit(number):
            printed = {'azerty': '&é"'[number - 1], 'cyrillic': str(number), 'chinese': 'Process'}[layout]
            dispatch(printed, f'Digit{number}')
        def dispatch(printed, code):
            page.evaluate("""([key, code]) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true, cancelable: true}))""", [printed, code])
            time.sleep(0.15)
        for i, letter in enumerate('abcdefghijkl'):
            key(letter); digit(i % 3 + 1)
            screen.press('Enter')
            screen.has(f'{i + 1} labeled of 14')
        lines = (folder/layout/'labels/ann.jsonl').read_text(encoding='utf-8')
        for i, event in enumerate(schema.events): assert f'"{event}":[null,"{schema.phases[i % 3]}"]' in lines
        screen.shoot(f'twelve_events_{layout}')


def test_edges_are_dragged_and_fields_give_the_keys_back(lab):
    folder, address = lab
    make_pictures(folder/'drag', dict(v=(320, 180)), 20, EventSchema())
    with chromium_page(*LAPTOP) as (page, errors):
        notebook, screen = open_tool(page, folder, address, 'drag', "show('drag', annotator='ann')")
        screen.focus()
        screen.press(*['ArrowRight'] * 5); screen.has('frame 5')
        screen.press('a', '2', 'i', *['ArrowRight'] * 5); screen.has('frame 10')
        screen.press('i'); screen.has('A 2 in 6 pictures')
        def drag(side, to):
            wait_for(lambda: page.locator('.vqa-labeling').evaluate('e => e.dataset.busy') == '0', 20, 'the answer to the last key')
            edge, tracks = page.locator(f'[data-edge={side}]').first.bounding_box(), page.locator('.vqa-tracks').bounding_box()
            page.mouse.move(edge['x'] + edge['width'] / 2, edge['y'] + edge['height'] / 2)
            page.mouse.down()
            page.mouse.move(tracks['x'] + tracks['width'] * (to + 0.5) / 20, edge['y'] + 3, steps=5)
            page.mouse.up()
        drag('end', 14); screen.has('A 2 is now 10 pictures long')
        drag('start', 8); screen.has('A 2 is now 7 pictures long')
        screen.press('Home', 'j'); screen.has('frame 8')
        screen.press('j'); screen.has('frame 15')
        screen.press('z', 'z'); screen.press('Home'); screen.has('frame 0'); screen.press('j'); screen.has('frame 5')
        # the note: Enter gives the keys back, so that the next key is a label and no text
        screen.press('t'); page.keyboard.type('blurred'); screen.press('Enter')
        wait_for(lambda: '"blurred"' in (folder/'drag/labels/ann.jsonl').read_text(), 20, 'the note')
        screen.press('b', '3')
        wait_for(lambda: '"B":[null,"3"]' in (folder/'drag/labels/ann.jsonl').read_text(), 20, 'the label after the note')
        # a menu as well
        page.locator('.vqa-labeling select').last.select_option(label='this picture only')
        screen.press('c', '1')
        wait_for(lambda: '"C":[null,"1"]' in (folder/'drag/labels/ann.jsonl').read_text(), 20, 'the label after the menu')
        screen.shoot('12_intervals')
        assert not errors
