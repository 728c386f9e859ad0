"""Every way in which a dataset folder can be wrong, one folder each"""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from paligemma_vqa.dataset.records import LABELS, Record, read_records, write_records
from paligemma_vqa.dataset.lint import fix, lint
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.labeling.store import LabelStore

SCHEMA = EventSchema()
QUESTION, NONE, A2 = SCHEMA.question(), SCHEMA.render({}), SCHEMA.render({'A': '2'})

def scene(seed, size=(320, 240)):
    small = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)

@pytest.fixture(scope='session')
def good_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('good')
    (folder/'images').mkdir()
    records = []
    for number in range(6):
        scene(number).save(folder/f'images/case{number}_000010.jpg')
        records.append(Record(f'images/case{number}_000010.jpg', QUESTION, A2 if number % 2 else NONE, dict(video=f'case{number}', frame_index=10, time_s=0.4)))
    write_records(folder, records)
    return folder

@pytest.fixture
def folder(good_folder, tmp_path):
    shutil.copytree(good_folder, tmp_path/'data')
    return tmp_path/'data'

def codes(folder, **options): return [(finding.line, finding.code) for finding in lint(folder, **options)]

def test_nothing_wrong(folder): assert lint(folder) == []

def line(folder, number, **changes):
    "Change keys of one line; None takes a key away"
    lines = (folder/LABELS).read_text().splitlines()
    values = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps({key: value for key, value in values.items() if value is not None}, ensure_ascii=False)
    (folder/LABELS).write_text('\n'.join(lines) + '\n')

def append(folder, **values):
    with open(folder/LABELS, 'a') as file: file.write(json.dumps(values) + '\n')

def splits(folder, **groups): (folder/'splits.json').write_text(json.dumps(dict(splits=groups)))

IMAGE = 'images/case{}_000010.jpg'.format
FAULTS = {   # name: what is done to a good folder, the finding, the text it must hold, whether `fix` repairs it
    'torn last line': (lambda f: (f/LABELS).write_bytes((f/LABELS).read_bytes()[:-40]), (6, 'torn'), 'torn or not JSON', True),
    'missing picture': (lambda f: (f/IMAGE(3)).unlink(), (4, 'missing'), 'is missing', False),
    'other case': (lambda f: line(f, 4, image='images/Case3_000010.JPG'), (4, 'missing'), "There is 'images/case3_000010.jpg'", False),
    'unknown event': (lambda f: line(f, 2, answer=A2.replace(' A ', ' F ')), (2, 'answer'), 'unknown event', False),
    'careless wording': (lambda f: line(f, 2, answer=A2.lower().rstrip('.')), (2, 'wording'), A2, True),
    'double answer en': (lambda f: line(f, 2, question='answer en ' + QUESTION), (2, 'prefix'), 'twice', True),
    'asked twice': (lambda f: append(f, image=IMAGE(1), question=QUESTION, answer=A2), (7, 'repeated'), 'line 2', True),
    'two answers': (lambda f: append(f, image=IMAGE(1), question=QUESTION, answer=NONE), (7, 'conflict'), 'line 2', False),
    'smaller copy': (lambda f: Image.open(f/IMAGE(1)).resize((200, 150)).save(f/IMAGE(3), quality=60), (4, 'lookalike'), 'hardly to be told', False),
    'smaller copy across a split': (lambda f: (Image.open(f/IMAGE(1)).resize((200, 150)).save(f/IMAGE(3), quality=60),
                                               splits(f, train=['case1', 'case2'], validation=['case3'])), (4, 'leak'), 'one in validation', False),
    'no file': (lambda f: (f/LABELS).unlink(), (None, 'file'), 'no labels.jsonl', False),
    'byte-order mark': (lambda f: (f/LABELS).write_bytes(b'\xef\xbb\xbf' + (f/LABELS).read_bytes()), (1, 'encoding'), 'byte-order mark', True),
    'torn journal': (lambda f: ((f/'labels').mkdir(), (f/'labels/anna.jsonl').write_text('{"id"')), (None, 'journal'), 'torn', False)}

@pytest.mark.parametrize('name', FAULTS)
def test_fault(folder, name):
    damage, (number, code), text, fixable = FAULTS[name]
    damage(folder)
    finding, = lint(folder)
    assert (finding.line, finding.code, finding.fixable) == (number, code, fixable)
    said = str(finding)
    assert text in said and finding.remedy and '\n' not in said
    assert said.startswith(f'{finding.path}:{number}: ' if number else f'{finding.path}: ')
    if name == 'no file': return
    before = (folder/LABELS).read_bytes()
    repaired, backup = fix(folder)
    if fixable:
        assert [one.code for one in repaired] == [code] and backup.read_bytes() == before and lint(folder) == []
        read_records(folder, SCHEMA, check_images=True)
    else: assert (repaired, backup) == ([], None) and (folder/LABELS).read_bytes() == before

def test_a_repair_survives_the_labeling_tool(folder):
    line(folder, 2, question='answer en ' + QUESTION)
    with LabelStore(folder, 'anna') as store: store.set_note(store.items[0], 'seen')
    assert codes(folder) == [(2, 'prefix')]        # word for word, also when it is wrong
    fix(folder)
    with LabelStore(folder, 'anna') as store: store.set_note(store.items[0], 'seen again')
    assert lint(folder) == []
