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

def raw(folder, number, text):
    lines = (folder/LABELS).read_bytes().splitlines()
    lines[number - 1:number] = [text]
    (folder/LABELS).write_bytes(b'\n'.join(lines) + b'\n')

def append(folder, **values):
    with open(folder/LABELS, 'a') as file: file.write(json.dumps(values) + '\n')

def rewrite_picture(path, content): path.write_bytes(content)

def splits(folder, **groups): (folder/'splits.json').write_text(json.dumps(dict(splits=groups)))

IMAGE = 'images/case{}_000010.jpg'.format
FAULTS = {   # name: what is done to a good folder, the finding, the text it must hold, whether `fix` repairs it
    'torn last line': (lambda f: (f/LABELS).write_bytes((f/LABELS).read_bytes()[:-40]), (6, 'torn'), 'torn or not JSON', True),
    'zeros after a power cut': (lambda f: raw(f, 3, b'\0' * 50), (3, 'torn'), 'torn', True),
    'not JSON': (lambda f: raw(f, 2, b'hello'), (2, 'torn'), 'not JSON', True),
    'a list': (lambda f: raw(f, 2, b'[1, 2]'), (2, 'record'), 'not a JSON object', False),
    'not UTF-8': (lambda f: raw(f, 2, '{"image": "images/é.jpg"}'.encode('latin-1')), (2, 'encoding'), 'UTF-8', False),
    'no image': (lambda f: line(f, 2, image=None), (2, 'record'), '"image" is missing', False),
    'no answer': (lambda f: line(f, 2, answer=None), (2, 'record'), '"answer" is missing', False),
    'a number for an answer': (lambda f: line(f, 2, answer=7), (2, 'record'), 'not a text', False),
    'path upwards': (lambda f: line(f, 2, image='../case1.jpg'), (2, 'outside'), 'leaves the folder', False),
    'absolute path': (lambda f: line(f, 2, image='/etc/passwd'), (2, 'outside'), 'leaves the folder', False),
    'drive letter': (lambda f: line(f, 2, image='C:/case1.jpg'), (2, 'outside'), 'leaves the folder', False),
    'backslashes': (lambda f: line(f, 2, image='images\\case1_000010.jpg'), (2, 'backslash'), 'backslashes', True),
    'missing picture': (lambda f: (f/IMAGE(3)).unlink(), (4, 'missing'), 'is missing', False),
    'other case': (lambda f: line(f, 4, image='images/Case3_000010.JPG'), (4, 'missing'), "There is 'images/case3_000010.jpg'", False),
    'empty picture': (lambda f: rewrite_picture(f/IMAGE(3), b''), (4, 'unreadable'), 'cannot be used', False),
    'text for a picture': (lambda f: rewrite_picture(f/IMAGE(3), b'<html>not found</html>'), (4, 'unreadable'), 'cannot be used', False),
    'half a picture': (lambda f: rewrite_picture(f/IMAGE(3), (f/IMAGE(3)).read_bytes()[:3000]), (4, 'unreadable'), 'cannot be used', False),
    'a folder for a picture': (lambda f: ((f/IMAGE(3)).unlink(), (f/IMAGE(3)).mkdir()), (4, 'unreadable'), 'cannot be used', False),
    'unknown event': (lambda f: line(f, 2, answer=A2.replace(' A ', ' F ')), (2, 'answer'), 'unknown event', False),
    'unknown phase': (lambda f: line(f, 2, answer=A2.replace('2', '9')), (2, 'answer'), 'unknown phase', False),
    'another sentence': (lambda f: line(f, 2, answer='I am not sure.'), (2, 'answer'), '', False),
    'empty answer': (lambda f: line(f, 2, answer=''), (2, 'answer'), '', False),
    'an event twice': (lambda f: line(f, 2, answer='A: 2, A: 3'), (2, 'answer'), 'two phases', False),
    'careless wording': (lambda f: line(f, 2, answer=A2.lower().rstrip('.')), (2, 'wording'), A2, True),
    'double answer en': (lambda f: line(f, 2, question='answer en ' + QUESTION), (2, 'prefix'), 'twice', True),
    'no answer en': (lambda f: line(f, 2, question=QUESTION.removeprefix('answer en ')), (2, 'prefix'), 'lacks', True),
    '<image> in the question': (lambda f: line(f, 2, question='<image>' + QUESTION), (2, 'prefix'), '<image>', True),
    'another question': (lambda f: line(f, 2, question='answer en What is this?'), (2, 'question'), 'not one of', False),
    'asked twice': (lambda f: append(f, image=IMAGE(1), question=QUESTION, answer=A2), (7, 'repeated'), 'line 2', True),
    'two answers': (lambda f: append(f, image=IMAGE(1), question=QUESTION, answer=NONE), (7, 'conflict'), 'line 2', False),
    'same bytes': (lambda f: shutil.copy(f/IMAGE(1), f/IMAGE(3)), (4, 'same'), 'byte for byte', False),
    'same bytes, other answer': (lambda f: shutil.copy(f/IMAGE(1), f/IMAGE(2)), (3, 'conflict'), 'another answer', False),
    'same bytes across a split': (lambda f: (shutil.copy(f/IMAGE(1), f/IMAGE(3)), splits(f, train=['case1'], test=['case3'])), (4, 'leak'), 'one is in train', False),
    'smaller copy': (lambda f: Image.open(f/IMAGE(1)).resize((200, 150)).save(f/IMAGE(3), quality=60), (4, 'lookalike'), 'hardly to be told', False),
    'smaller copy across a split': (lambda f: (Image.open(f/IMAGE(1)).resize((200, 150)).save(f/IMAGE(3), quality=60),
                                               splits(f, train=['case1', 'case2'], validation=['case3'])), (4, 'leak'), 'one in validation', False),
    'time is text': (lambda f: line(f, 2, time_s='0:04'), (2, 'where'), 'time_s', False),
    'negative frame': (lambda f: line(f, 2, frame_index=-1), (2, 'where'), 'frame_index', False),
    'no records': (lambda f: (f/LABELS).write_text('\n'), (None, 'empty'), 'no records', False),
    'no file': (lambda f: (f/LABELS).unlink(), (None, 'file'), 'no labels.jsonl', False),
    'broken schema': (lambda f: (f/'schema.json').write_text('{"events": ["A",'), (1, 'file'), 'not JSON', False),
    'broken splits': (lambda f: (f/'splits.json').write_text('[]'), (None, 'file'), 'splits.json', False),
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
    if name in ('broken schema', 'no file', 'no records'): return
    before = (folder/LABELS).read_bytes()
    repaired, backup = fix(folder)
    if fixable:
        assert [one.code for one in repaired] == [code] and backup.read_bytes() == before and lint(folder) == []
        read_records(folder, SCHEMA, check_images=True)
    else: assert (repaired, backup) == ([], None) and (folder/LABELS).read_bytes() == before

def test_there_are_enough(): assert len(FAULTS) >= 25

def test_balance(folder):
    pictures = [f'images/v_{number:06d}.jpg' for number in range(40)]
    for number, picture in enumerate(pictures): scene(100, (64, 48)).save(folder/picture)
    write_records(folder, [Record(picture, QUESTION, A2) for picture in pictures])
    messages = [finding.message for finding in lint(folder, visual=False) if finding.code == 'balance']
    assert messages == ["event 'A' is never in phase 1, 3, 4", *[f"event '{event}' is never there" for event in 'BCDE'], f"40 of 40 answers are '{A2}'"]

def test_frames_of_one_video_may_look_alike(folder):
    for number in range(5): scene(0).save(folder/f'images/case0_{number:06d}.jpg', quality=90 - number)
    write_records(folder, [*read_records(folder), *(Record(f'images/case0_{number:06d}.jpg', QUESTION, NONE) for number in range(5))])
    assert codes(folder) == []

def test_lines_only(folder):
    (folder/IMAGE(3)).unlink()
    assert codes(folder, pictures=False) == []

def test_several_faults_at_once_and_a_second_fix_finds_nothing(folder):
    for name in ('double answer en', 'torn last line'): FAULTS[name][0](folder)
    line(folder, 4, image='images\\case3_000010.jpg')
    repaired, _ = fix(folder)
    assert len(repaired) == 3 and fix(folder) == ([], None) and lint(folder) == []

def test_a_repair_survives_the_labeling_tool(folder):
    line(folder, 2, question='answer en ' + QUESTION)
    with LabelStore(folder, 'anna') as store: store.set_note(store.items[0], 'seen')
    assert codes(folder) == [(2, 'prefix')]        # word for word, also when it is wrong
    fix(folder)
    with LabelStore(folder, 'anna') as store: store.set_note(store.items[0], 'seen again')
    assert lint(folder) == []
