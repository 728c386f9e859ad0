"""The labeling tool in a real JupyterLab and a headless Chromium: what the hands do must be what the disk holds."""
import json, os, re, signal, time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jupyter_browser import NotebookPage, chromium_page, jupyter_lab, wait_for, write_notebook
from paligemma_vqa.dataset.extract import extract_frames
from paligemma_vqa.schema import EventSchema

pytestmark = pytest.mark.browser

SETUP = '''
import numpy as np
from paligemma_vqa.labeling.widget import LabelingTool
from paligemma_vqa.schema import EventSchema
schema = EventSchema()
class Guess:
    def __init__(self, annotation):
        self.annotation, self.probabilities = annotation, np.full((5, 5), 0.05)
        for row, code in enumerate(schema.codes(annotation)): self.probabilities[row, code] = 0.8
class Guesser:
    def predict(self, images): return [Guess({'C': '3'}) for _ in images]
'''
# On a busy machine a kernel may need more than its 600 ms; here no key is to be left out because of that.
PATIENT = 'tool.keyboard.stall_ms = 20_000\ntool'
SHOW = f"tool = LabelingTool('frames', schema, 'ann', Guesser(), 'guesser', pause_s=0.3)\n{PATIENT}"
SCHEMA = EventSchema()


@pytest.fixture(scope='module')
def workplace(tmp_path_factory):
    "A folder with a notebook and twenty frames of one video, and JupyterLab with it in Chromium"
    folder = tmp_path_factory.mktemp('lab')
    (folder/'frames/images').mkdir(parents=True)
    for i in range(20):
        pixels = np.full((108, 192, 3), 12 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder/f'frames/images/v_{i:06d}.jpg')
    write_notebook(folder/'label.ipynb', SETUP, SHOW, '"below the tool"')
    with jupyter_lab(folder) as address, chromium_page() as (page, errors):
        yield folder, page, errors, address


def name(i): return f'images/v_{i:06d}.jpg'

def entries(folder):
    path = folder/'frames/labels/ann.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

def written(folder):
    "Picture to (answer, source), of labels.jsonl"
    path = folder/'frames/labels.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert all(line['question'] == SCHEMA.question() for line in lines)
    return {line['image']: (line['answer'], line['source']) for line in lines}

def expected(annotations): return {name(i): (SCHEMA.render(annotation), source) for i, (annotation, source) in annotations.items()}


class Hands:
    "An expert at the tool: every press waits until the disk has what it should have written"
    def __init__(self, page, folder): self.page, self.folder = page, folder

    def wait_ready(self): self.page.locator(".vqa-labeling[data-ready='1']").last.wait_for(timeout=90_000)
    def focus(self): self.page.locator('.vqa-picture').last.click()
    def press(self, *keys):
        for key in keys: self.page.keyboard.press(key)

    def on_screen(self, frame):
        self.page.locator('.vqa-header', has_text=f'frame {frame}').last.wait_for(timeout=20_000)

    def click(self, command):
        self.page.locator(f'.vqa-labeling [data-command="{command}"]').last.click()

    def finds(self, annotations):
        "labels.jsonl holds exactly these lines, soon"
        end = time.monotonic() + 20
        while written(self.folder) != expected(annotations) and time.monotonic() < end: time.sleep(0.05)
        assert written(self.folder) == expected(annotations)


class Counted:
    "A person who is new here: each thing they do is counted"
    def __init__(self, page): self.page, self.actions = page, 0
    def type(self, where, text):
        self.actions += 1
        self.page.locator(where).last.click()
        self.page.keyboard.type(text)
    def click(self, where):
        self.actions += 1
        self.page.locator(where).last.click()
    def press(self, *keys):
        for key in keys:
            self.actions += 1
            self.page.keyboard.press(key)


def make_schema(person, events, phases):
    "The tool asks for the names in a new folder; returns when the first picture is there"
    person.type('.vqa-schema-events textarea', events)
    person.type('.vqa-schema-phases textarea', phases)
    person.page.locator('.vqa-schema-answer', has_text=events.split(',')[0]).first.wait_for()
    person.click('.vqa-schema-start')
    person.page.locator(".vqa-labeling[data-ready='1']").last.wait_for(timeout=90_000)


@pytest.mark.slow
def test_a_new_folder_a_video_and_escape(workplace, bikes):
    "The schema is made in the tool, keys label what is playing, and what is pressed after Esc deletes no cell"
    folder, page, errors, address = workplace
    extract_frames(bikes, folder/'own', every_s=0.4, end_s=4)
    write_notebook(folder/'own.ipynb', f"from paligemma_vqa.labeling import LabelingTool\ntool = LabelingTool('own', annotator='ann', pause_s=0.3)\ntool", "'below the tool'")
    notebook, hands, person = NotebookPage(page, address, 'own.ipynb'), Hands(page, folder), Counted(page)
    notebook.run_all()
    page.locator('.vqa-schema').wait_for()
    cells = notebook.cells()
    make_schema(person, 'cyclist, walker, dd', 'begin, end')
    person.press('c', '1', 'Enter')                     # the keys are there without a click
    assert person.actions <= 6
    page.locator('.vqa-counts', has_text='1 labeled of 10').wait_for()
    hands.press('Space')
    page.wait_for_function("() => Number(document.querySelector('.vqa-play-frame').dataset.frames) > 4")
    page.locator('.vqa-counts', has_text=re.compile('queue ([3-9]|10) of 10')).wait_for()     # two pictures have passed
    hands.press('w', '2', 'Space')
    page.locator('.vqa-offer', has_text='played').wait_for()
    hands.press('Control+Enter')
    wait_for(lambda: 'walker in the end phase' in (folder/'own/labels.jsonl').read_text(encoding='utf-8'), 20, 'what was played')
    for keys in ('Escape', 'd', 'd'), ('Escape', 'q', 'd', 'd'), ('x', 'd', 'd'): hands.press(*keys)
    time.sleep(0.4)
    assert notebook.cells() == cells and page.locator('.jp-Dialog').count() == 0
    assert EventSchema.load(folder/'own/schema.json').events == ('cyclist', 'walker', 'dd')


@pytest.mark.slow
def test_an_afternoon(workplace):
    folder, page, errors, address = workplace
    notebook, hands = NotebookPage(page, address, 'label.ipynb'), Hands(page, folder)
    notebook.run_all()
    hands.wait_ready()
    cells = notebook.cells()

    # Four frames by keys: A 2 holds, then B 3 joins it, then A ends.
    hands.focus()
    hands.press('a', '2', 'Enter', 'Enter', 'b', '3', 'Enter', 'a', '0', 'Enter')
    hands.on_screen(4)
    labels = {0: ({'A': '2'}, 'human'), 1: ({'A': '2'}, 'human'), 2: ({'A': '2', 'B': '3'}, 'human'), 3: ({'B': '3'}, 'human')}
    hands.finds(labels)

    # Three by mouse: a phase button and Confirm, a thumbnail, Same, Nothing.
    hands.click('set 3 4')
    hands.click('confirm')
    hands.on_screen(5)
    hands.click('go 6')
    hands.on_screen(6)
    hands.click('go 5')
    hands.on_screen(5)
    hands.click('same')
    hands.on_screen(6)
    hands.click('nothing')
    hands.on_screen(7)
    labels |= {4: ({'B': '3', 'D': '4'}, 'human'), 5: ({'B': '3', 'D': '4'}, 'copied'), 6: ({}, 'human')}
    hands.finds(labels)

    # Keys still work after the mouse; undo goes back to the frame it changes, redo as well.
    hands.press('e', '1', 'Control+z')
    hands.on_screen(7)
    hands.finds(labels)
    hands.press('y', 'z')
    hands.finds(labels)

    # A suggestion is accepted with one key and marked as the model's.
    hands.press('Space')
    hands.on_screen(8)
    labels[7] = {'C': '3'}, 'model:guesser'
    hands.finds(labels)

    # An interval from frame 8 to frame 11, then a run of 13 to 15 given one event at once.
    hands.press('c', '1', 'i', 'ArrowRight', 'ArrowRight', 'ArrowRight')
    hands.on_screen(11)
    hands.press('i')
    hands.finds(labels)                  # an interval speaks of one event only: nothing is finished by it
    hands.press('Home', *['PageDown'], 'ArrowLeft', 'ArrowLeft', *['Shift+ArrowRight'] * 3, 'Enter')
    hands.on_screen(12)
    labels |= {i: ({'C': '1'}, 'human') for i in range(8, 12)}
    hands.finds(labels)
    hands.press('ArrowRight', 'Shift+ArrowRight', 'Shift+ArrowRight')
    page.locator('.vqa-run', has_text='3 selected').wait_for()
    hands.press('b', '2', 'Enter')
    labels |= {i: ({'B': '2'}, 'human') for i in range(13, 16)}
    hands.finds(labels)

    # Dragging over the timeline selects a run, too.
    box = page.locator('.vqa-tracks').bounding_box()
    page.mouse.move(box['x'] + box['width'] * 16.5 / 20, box['y'] + 10)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] * 18.5 / 20, box['y'] + 10)
    page.mouse.up()
    page.locator('.vqa-run', has_text='3 selected').wait_for()
    hands.press('n')
    labels |= {i: ({}, 'human') for i in (16, 17, 18)}
    hands.finds(labels)
    hands.on_screen(19)

    # A note: keys in a text field are text, for the tool and for JupyterLab.
    before = len(entries(folder))
    hands.press('t')
    page.keyboard.type('add back 1 2 dd', delay=10)
    hands.press('Enter')
    wait_for(lambda: len(entries(folder)) == before + 1, 20, 'the note')
    assert entries(folder)[-1]['items'][name(19)]['note'][1] == 'add back 1 2 dd'

    # What would delete, insert and restart in JupyterLab stays in the tool.
    hands.focus()
    hands.press('x', 'd', 'd', 'o', 'l', 'v', 'r', 'j', 'p', 'w', 'q')
    time.sleep(0.5)
    assert notebook.cells() == cells and page.locator('.jp-Dialog').count() == 0
    hands.finds(labels)

    # Ctrl+S still saves the notebook. After a reload the tool is there again and goes on.
    notebook.save(folder/'label.ipynb')
    page.reload(wait_until='domcontentloaded')
    hands.wait_ready()
    notebook.wait_idle()
    hands.focus()
    hands.press('End')
    hands.on_screen(19)
    hands.press('d', '2', 'Enter')
    labels[19] = {'D': '2'}, 'human'
    hands.finds(labels)

    # A restarted kernel finds everything, and can still undo what was done before it.
    notebook.restart_kernel()
    notebook.run_all()
    hands.wait_ready()
    hands.on_screen(12)                  # the first frame that is not labeled
    hands.focus()
    hands.press('z')
    hands.on_screen(19)
    labels.pop(19)
    hands.finds(labels)
    assert not errors, errors


def opened(workplace, name:str, frames:int, code:str) -> Hands:
    "The labeling tool, made by `code` in a notebook of its own over a folder `name` of so many pictures, ready for keys"
    folder, page, errors, address = workplace
    (folder/name/'images').mkdir(parents=True)
    for i in range(frames): Image.new('RGB', (64, 36), (240 // frames * i, 0, 0)).save(folder/f'{name}/images/{name[0]}_{i:06d}.jpg')
    write_notebook(folder/f'{name}.ipynb', SETUP, code)
    notebook, hands = NotebookPage(page, address, f'{name}.ipynb'), Hands(page, folder)
    notebook.run_all()
    hands.wait_ready()
    hands.focus()
    return hands


@pytest.mark.slow
def test_a_burst_of_keys_stays_in_order(workplace):
    "Sixty keys as fast as the browser takes them: every one arrives, on the frame that was on screen"
    folder, *_ = workplace
    hands = opened(workplace, 'burst', 20, f"tool = LabelingTool('burst', schema, 'ann', pause_s=0.3)\n{PATIENT}")
    for i in range(20): hands.press('abcde'[i % 5], str(i % 4 + 1), 'Enter')
    hands.page.locator('.vqa-counts', has_text='20 labeled of 20').last.wait_for(timeout=40_000)
    lines = [json.loads(line) for line in (folder/'burst/labels/ann.jsonl').read_text().splitlines()]
    set_ = [(list(line['items'])[0], event, pair[1]) for line in lines for event, pair in list(line['items'].values())[0].get('events', {}).items()]
    assert set_ == [(f'images/b_{i:06d}.jpg', 'ABCDE'[i % 5], str(i % 4 + 1)) for i in range(20)]


@pytest.mark.slow
def test_a_note_typed_while_keys_are_on_their_way(workplace):
    "It is for the picture that the keys lead to, no letter of it is lost, and keys after Enter are keys again"
    folder, page, errors, _ = workplace
    hands = opened(workplace, 'noted', 12, f"""
import time
tool = LabelingTool('noted', schema, 'ann', pause_s=0.3)
handle = tool.handle
def slow(command, item=None): time.sleep(0.15); handle(command, item)
tool.keyboard._msg_callbacks.callbacks.clear()
tool.keyboard.listen(tool.screen.commands | {{'Escape': 'unselect'}}, slow)
{PATIENT}""")
    texts = {}
    for i in range(1, 12, 2):
        hands.press('abcde'[i % 5], '1', 'Enter', 't')      # three keys are on their way when the note begins
        page.keyboard.type(f'blurred {i} dd 12')
        hands.press('Enter', 'b', '2', 'Enter')
        texts[f'images/n_{i:06d}.jpg'] = f'blurred {i} dd 12'
    page.locator('.vqa-counts', has_text='12 labeled of 12').last.wait_for(timeout=60_000)
    lines = [json.loads(line) for line in (folder/'noted/labels/ann.jsonl').read_text().splitlines()]
    notes = [(item, fields['note'][1]) for line in lines for item, fields in line['items'].items() if 'note' in fields]
    assert notes == list(texts.items())
    wait_for(lambda: len((folder/'noted/labels.jsonl').read_text().splitlines()) == 12, 20, 'twelve lines')
    assert [SCHEMA.parse(json.loads(line)['answer']).get('B') for line in (folder/'noted/labels.jsonl').read_text().splitlines()][1::2] == ['2'] * 6
    # more is written after what stands there, and the field shows the note of the picture on screen
    hands.press('Home', 'ArrowRight')
    page.wait_for_function("() => [...document.querySelectorAll('.vqa-note input')].pop().value === 'blurred 1 dd 12'")
    hands.press('ArrowRight', 'ArrowLeft', 't')
    page.keyboard.type('and dark')
    hands.press('Enter')
    page.wait_for_function("() => [...document.querySelectorAll('.vqa-note input')].pop().value === 'blurred 1 dd 12 and dark'")
    # Esc waits for the keys before it: it lets go of what they selected, or asks when they left nothing to let go of
    tool, answered = page.locator('.vqa-labeling').last, lambda: page.locator('.vqa-labeling').last.evaluate('e => e.dataset.busy') == '0'
    hands.press('Home', 'Shift+ArrowRight', 'Escape')
    wait_for(answered, 20, 'the answers')
    assert page.locator('.vqa-run', has_text='selected').count() == 0 and tool.get_attribute('data-keys') == 'on'
    hands.press('Shift+ArrowRight', 'Enter', 'Escape')
    page.locator(".vqa-labeling[data-keys='asking']").last.wait_for(timeout=20_000)
    hands.press('ArrowRight')
    # Enter that ends a composition of an input method is the method's, whether the browser marks it (Chrome) or not (Safari)
    hands.press('t')
    field, typing = page.locator('.vqa-note input').last, page.context.new_cdp_session(page)
    field.fill('')
    typing.send('Input.imeSetComposition', dict(text='mo hu', selectionStart=5, selectionEnd=5))
    press = "(e, options) => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', code: 'Enter', bubbles: true, cancelable: true, ...options}))"
    for options in dict(isComposing=True), dict(keyCode=229), {}: field.evaluate(press, options)
    assert field.evaluate('e => e === document.activeElement')
    typing.send('Input.insertText', dict(text='模糊'))
    field.evaluate(press, dict(keyCode=229))
    assert field.evaluate('e => e === document.activeElement')
    hands.press('Enter')
    wait_for(lambda: '模糊' in (folder/'noted/labels/ann.jsonl').read_text(encoding='utf-8'), 20, 'the note in Chinese')
    assert tool.get_attribute('data-keys') == 'on'
    assert not errors, errors


@pytest.mark.slow
def test_a_second_notebook_is_told(workplace):
    folder, page, errors, address = workplace
    write_notebook(folder/'second.ipynb', SETUP, SHOW)
    notebook, hands = NotebookPage(page, address, 'second.ipynb'), Hands(page, folder)
    before = entries(folder)
    notebook.run_all()
    hands.wait_ready()
    page.locator(".vqa-message[data-state='alarm']", has_text='look, but not label').last.wait_for()
    hands.focus()
    hands.press('a', '1')
    page.locator(".vqa-message[data-state='alarm']", has_text='read-only').last.wait_for()
    assert entries(folder) == before


@pytest.mark.slow
def test_a_dead_kernel_turns_red_and_loses_nothing(workplace):
    "Kill −9 of the kernel: what was acknowledged is on the disk, later keys are visibly not saved, and the cell run again goes on"
    folder, page, errors, address = workplace
    (folder/'killed/images').mkdir(parents=True)
    for i in range(6): Image.new('RGB', (64, 36), (40 * i, 0, 0)).save(folder/f'killed/images/k_{i:06d}.jpg')
    write_notebook(folder/'killed.ipynb', SETUP, "import os\nopen('pid', 'w').write(str(os.getpid()))\nLabelingTool('killed', schema, 'ann', pause_s=0.3)")
    notebook, hands = NotebookPage(page, address, 'killed.ipynb'), Hands(page, folder)
    notebook.run_all()
    hands.wait_ready()
    hands.focus()
    hands.press('a', '1', 'Enter', 'b', '2', 'Enter')
    page.locator('.vqa-counts', has_text='2 labeled of 6').wait_for()
    os.kill(int((folder/'pid').read_text()), signal.SIGKILL)
    hands.press('Enter', 'c', '3')
    page.locator(".vqa-pill[data-state='stalled'], .vqa-pill[data-state='dead']").wait_for(timeout=20_000)
    page.locator('.jp-Dialog .jp-mod-accept').click()            # JupyterLab tells that it restarts the kernel
    notebook.wait_idle()
    notebook.run_all()
    page.locator('.vqa-counts', has_text='2 labeled of 6').last.wait_for()
    wait_for((folder/'killed/labels.jsonl').exists, 10, 'labels.jsonl')
    lines = [json.loads(line) for line in (folder/'killed/labels.jsonl').read_text().splitlines()]
    assert [SCHEMA.parse(line['answer']) for line in lines] == [{'A': '1'}, {'A': '1', 'B': '2'}]


@pytest.mark.slow
def test_from_one_recording_to_a_report(tmp_path, bikes):
    "One video: frames, the schema in the tool, forty frames labeled by keyboard while it plays, training, a report"
    from terminal import run
    done = run('frames', bikes, '--output', tmp_path/'data', '--every', '0.2')
    assert done.returncode == 0, done.stderr
    done = run('label', tmp_path/'data', '--annotator', 'ann', '--no-browser')
    assert done.returncode == 0, done.stderr
    with jupyter_lab(tmp_path/'data') as address, chromium_page(1366, 625) as (page, errors):
        person = Counted(page)
        notebook = NotebookPage(page, address, 'label.ipynb')
        page.locator('.jp-CodeCell .cm-content').last.click()
        person.press('Shift+Enter')
        page.locator('.vqa-schema').wait_for(timeout=90_000)
        make_schema(person, 'taxi, walker', 'near, far')
        person.press('t', '1')
        page.locator('.vqa-phase.vqa-on', has_text='near').first.wait_for()
        person.press('Enter')
        page.locator('.vqa-counts', has_text='1 labeled of 50').wait_for()
        first_label = person.actions + 2               # the two commands, frames and label
        print(f'{first_label} actions from a video to the first label')
        assert first_label <= 10
        # forty frames: a key as something begins or ends, while it plays; then all that was played at once
        person.press('Shift+ArrowDown')                # half speed: there is time to see
        person.press('Space')
        for key, after in ('w', 4), ('1', 5), ('t', 12), ('2', 13), ('w', 20), ('0', 21), ('t', 30), ('0', 31):
            page.wait_for_function(f"() => Number(document.querySelector('.vqa-where').textContent.match(/frame (\\d+)/)[1]) >= {5 * after}", timeout=90_000)
            person.press(key)
        page.wait_for_function("() => Number(document.querySelector('.vqa-where').textContent.match(/frame (\\d+)/)[1]) >= 205", timeout=90_000)
        person.press('Space')
        page.locator('.vqa-offer', has_text='played').wait_for()
        person.press('Control+Enter')
        page.wait_for_function("() => Number(document.querySelector('.vqa-counts').textContent.match(/(\\d+) labeled/)[1]) >= 40", timeout=90_000)
        page.screenshot(path=Path(__file__).with_name('screens')/'forty_labeled.png') if Path(__file__).with_name('screens').is_dir() else None
        wait_for(lambda: len((tmp_path/'data/labels.jsonl').read_text().splitlines()) >= 40, 20, 'forty lines')
        assert not errors
    answers = {json.loads(line)['answer'] for line in (tmp_path/'data/labels.jsonl').read_text().splitlines()}
    assert len(answers) >= 3
    done = run('train', '--data', tmp_path/'data', '--model', 'tiny', '--output', tmp_path/'run', '--set', 'max_steps=6', '--json')
    assert done.returncode == 0, done.stderr
    done = run('evaluate', '--data', tmp_path/'data', '--lora_path', tmp_path/'run/adapter', '--output', tmp_path/'report')
    assert done.returncode == 0, done.stderr
    assert list((tmp_path/'report').rglob('report.html'))
