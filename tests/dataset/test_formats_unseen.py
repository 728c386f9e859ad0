"""Labels in shapes that nobody planned for: read right, or refused with a remedy; never `no events` for what was not understood"""
import json, re
from pathlib import Path

import pytest
from PIL import Image

from paligemma_vqa.command.cli import run
from paligemma_vqa.dataset.formats import import_labels
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.schema import EventSchema, VQAError

SCHEMA = EventSchema()
NAMED = EventSchema(events=('bleeding', 'smoke', '出血'), phases=('early', 'late'))
SEEN = EventSchema(events=('bleeding', 'smoke'), phases=('present',))
SENTENCE = SCHEMA.render({'A': '2'})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('unseen') / 'data'
    (root / 'images').mkdir(parents=True)
    lines = []
    for name in ['a_000030', 'a_000040', 'a_000050'] + [f'op1_{frame:06d}' for frame in range(0, 250, 25)]:
        Image.new('RGB', (8, 8)).save(root / f'images/{name}.jpg')
        video, _, frame = name.rpartition('_')
        if video == 'op1': lines.append(json.dumps(dict(image=f'images/{name}.jpg', video=video, frame_index=int(frame), time_s=int(frame) / 25)))
    (root / 'frames.jsonl').write_text('\n'.join(lines))
    return root


def save(folder, content, name, encoding='utf-8') -> Path:
    path = folder.parent / name
    path.write_bytes((content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode(encoding))
    return path


def said(folder, content, name, schema=SCHEMA, encoding='utf-8', **options) -> dict:
    "What an import would write, with pictures that say nothing taken for negatives: the worst case"
    imported = import_labels(save(folder, content, name, encoding), folder, schema=schema, write=False, **dict(empty='nothing') | options)
    return {record.image[7:-4]: schema.parse(record.answer) for record in imported.records}


def task(frame, *results): return dict(id=frame, data=dict(image=f'/data/upload/1/0a1b2c3d-a_0000{frame}.jpg'), annotations=[dict(result=list(results), completed_by=1)])
def result(control, kind, value, region=None): return dict(from_name=control, type=kind, id=region, value={kind if kind != 'textarea' else 'text': value} | (dict(x=1, y=1, width=2, height=2) if region else {}))
def choice(control, *choices, region=None): return result(control, 'choices', list(choices), region)
def box(label, region): return result('label', 'rectanglelabels', [label], region)
def coco(*annotations, categories=({'id': 1, 'name': 'A: 1'}, {'id': 2, 'name': 'B'}), **image):
    return dict(images=[dict(id=30, file_name='a_000030.jpg', **image), dict(id=40, file_name='a_000040.jpg')], categories=list(categories), annotations=list(annotations))
def tag(label, **attributes): return f'<tag label="{label}">' + ''.join(f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items()) + '</tag>'
def cvat(*tags, more=''): return f'<annotations><image id="0" name="a_000030.jpg">{"".join(tags)}</image>{more}</annotations>'
def boris(*events, kind='State event'): return dict(observations={'o': dict(file={'1': ['op1.mp4']}, events=list(events))}, behaviors_conf={'0': dict(code='A', type=kind), '1': dict(code='B', type='State event')})
def line(**entry): return json.dumps(dict(image='a_000030.jpg') | entry)
def turns(*texts): return [dict(role='user' if n % 2 == 0 else 'assistant', content=text) for n, text in enumerate(texts)]


A2, FIRST = {'A': '2'}, 'a_000030'
TABULAR = 'Observation id\tMedia file name\tSubject\tBehavior\tBehavioral category\tModifier #1\tBehavior type\tTime\tComment\n'
OP1 = {f'op1_{frame:06d}': {} for frame in range(0, 250, 25)}
HELD = OP1 | {'op1_000025': {'A': '1'}, 'op1_000050': {'A': '1'}}   # A 1 from 1 s to 3 s

UNDERSTOOD = {
    # Label Studio
    'a phase asked for by another name': ([task(30, choice('finding', 'A'), choice('how far', '2'))], 'x.json', {FIRST: A2}),
    'which events, and one question more for each': ([task(30, choice('which', 'A', 'B'), choice('A_phase', '2'), choice('B_phase', '3'))], 'x.json', {FIRST: {'A': '2', 'B': '3'}}),
    'a rating is a phase': ([task(30, result('A', 'rating', 2))], 'x.json', {FIRST: A2}),
    'a number for each box': ([task(30, box('A', 'r'), result('phase', 'number', 2, 'r'))], 'x.json', {FIRST: A2}),
    'a choice for each box, by another name': ([task(30, box('A', 'r'), choice('severity', '2', region='r'), box('B', 's'), choice('severity', '3', region='s'))], 'x.json', {FIRST: {'A': '2', 'B': '3'}}),
    'a taxonomy that lists parents': ([task(30, result('tax', 'taxonomy', [['Findings'], ['Findings', 'A'], ['Findings', 'A', '2']]))], 'x.json', {FIRST: A2}),
    'a taxonomy for each event': ([task(30, result('A', 'taxonomy', [['phase', '2']]))], 'x.json', {FIRST: A2}),
    'an answer that was typed': ([task(30, result('answer', 'textarea', [SENTENCE]))], 'x.json', {FIRST: A2}),
    'an answer in a comment of JSON-MIN': ([dict(id=1, image='a_000030.jpg', comment='A: 2', annotation_id=3)], 'x.json', {FIRST: A2}),
    'a taxonomy of JSON-MIN as plain lists': ([dict(id=1, image='a_000030.jpg', tax=[['A'], ['A', '2']], annotation_id=3)], 'x.json', {FIRST: A2}),
    # Tables
    'an index with gaps': (',image,A\n5,a_000030.jpg,2\n9,a_000040.jpg,3\n', 'x.csv', {FIRST: A2, 'a_000040': {'A': '3'}}),
    'German': ('Bild;Ereignis;Phase;Bemerkung\na_000030.jpg;A;2,0;gut\na_000040.jpg;keine;;\n', 'x.csv', {FIRST: A2, 'a_000040': {}}, SCHEMA, 'cp1252'),
    'French': ('fichier;événement;étape\na_000030.jpg;A;2\n', 'x.csv', {FIRST: A2}, SCHEMA, 'utf-16'),
    'phase2': ('image_id,label,phase\na_000030,A,phase2\n', 'x.csv', {FIRST: A2}),
    'two events in one interval': ('video,event,phase,t_start,t_end\nop1,A;B,1,00:00:01,3\n', 'x.csv', {name: value and value | {'B': '1'} for name, value in HELD.items()}),
    'names without suffix': ('image,A\na_000030,2\n', 'x.csv', {FIRST: A2}),
    'a table of BORIS 8': (TABULAR + 'o\top1.mp4\t\tA\t\t1\tSTART\t1.0\t\no\top1.mp4\t\tA\t\t1\tSTOP\t3.0\t\n', 'x.tsv', HELD),
    # COCO and CVAT
    'numbers as text': (coco(dict(image_id='30', category_id='1')), 'x.json', {FIRST: {'A': '1'}, 'a_000040': {}}),
    'a phase that is a number': (coco(dict(image_id=30, category_id=2, attributes={'stage': 3, 'occluded': False})), 'x.json', {FIRST: {'B': '3'}, 'a_000040': {}}),
    'captions': (dict(images=[dict(id=1, file_name='a_000030.jpg')], annotations=[dict(id=1, image_id=1, caption='A: 2')]), 'x.json', {FIRST: A2}),
    'the attribute that is called phase': (cvat(tag('A', grade=1, phase=2)), 'x.xml', {FIRST: A2}),
    'a picture that was deleted in CVAT': ('<annotations><image id="0" name="a_000030.jpg" deleted="1"/><image id="1" name="a_000040.jpg">' + tag('A: 2') + '</image></annotations>', 'x.xml', {'a_000040': A2}),
    'a bitmask': ([task(30, result('mask', 'bitmasklabels', ['A: 2'], 'r'))], 'x.json', {FIRST: A2}),
    # Questions and answers
    'places before the name': (line(prefix='detect A', suffix='<loc0100><loc0200><loc0300><loc0400> A 2'), 'x.jsonl', {FIRST: A2}),
    'talk after the answer': (json.dumps(dict(images=['a_000030.jpg'], messages=turns('<image>Which?', SENTENCE, 'Is it bad?', 'No.'))), 'x.jsonl', {FIRST: A2}),
    'prompt and completion': (json.dumps(dict(images=['a_000030.jpg'], prompt=turns('Which?'), completion=[dict(role='assistant', content=SENTENCE)])), 'x.jsonl', {FIRST: A2}),
    'the metadata of an imagefolder': (json.dumps(dict(file_name='a_000030.jpg', text=SENTENCE)), 'metadata.jsonl', {FIRST: A2}),
    'the metadata of an imagefolder as a table': (f'file_name,text\na_000030.jpg,"{SENTENCE}"\n', 'metadata.csv', {FIRST: A2}),
    'an answer that is an object': (line(answer={'A': 2}), 'x.jsonl', {FIRST: A2}),
    # About one picture something is not clear: it is left out whole, and never a negative
    'a category that is not there': (coco(dict(image_id=30, category_id=9), dict(image_id=30, category_id=1), dict(image_id=40, category_id=1)), 'x.json', {'a_000040': {'A': '1'}}),
    'labels that hang on the image': (coco(dict(image_id=40, category_id=1), tags=['A: 1']), 'x.json', {'a_000040': {'A': '1'}}),
    'one of two rows is torn': ('image,event,phase\na_000030.jpg,A,2\na_000030.jpg,B,3,4\na_000040.jpg,A,2\n', 'x.csv', {'a_000040': A2}),
    'a comment and no label': ([task(30, result('remark', 'textarea', ['blurred?'])), task(40, choice('A', '2'))], 'x.json', {'a_000040': A2}),
    'a moment without length': ('video,event,phase,start,end\nop1,A,1,1,3\nop1,B,1,5,5\n', 'x.csv', {name: value for name, value in HELD.items() if name != 'op1_000125'}),
    'a point of BORIS': (boris([1, '', 'B', '1', ''], [3, '', 'B', '1', ''], [5, '', 'A', '1', ''], kind='Point event'), 'x.boris',
                         {name: {'B': '1'} if value else {} for name, value in HELD.items() if name != 'op1_000125'}),
}


@pytest.mark.parametrize('case', UNDERSTOOD)
def test_understood(folder, case):
    content, name, expected, *schema_and_encoding = UNDERSTOOD[case]
    assert said(folder, content, name, *schema_and_encoding) == expected


REFUSED = {
    'no, to a question about one event': (line(prefix='Is A there?', suffix='no'), 'x.jsonl', "the label 'no' is not in the schema"),
    'no twice in a dialogue': (json.dumps(dict(images=['a_000030.jpg'], messages=turns('A?', 'No', 'B?', 'no'))), 'x.jsonl', "the label 'No'"),
    'only points': ('video,event,phase,start,end\nop1,A,1,5,5\n', 'x.csv', '1 interval of .op1. has no length'),
    'only points, ELAN': ('<ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL="op1.mp4"/></HEADER><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="1000"/></TIME_ORDER><TIER TIER_ID="A"><ANNOTATION>'
                          '<ALIGNABLE_ANNOTATION ANNOTATION_ID="1" TIME_SLOT_REF1="a" TIME_SLOT_REF2="a"><ANNOTATION_VALUE>1</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>', 'x.eaf', 'has no length'),
    'annotations of other images': (coco(dict(image_id=99, category_id=1)), 'x.json', 'no annotation is about an image that is listed'),
    'no categories': (coco(categories=()), 'x.json', 'there are no categories'),
    'categories that are all unknown': (coco(dict(image_id=30, category_id=9), dict(image_id=40, category_id=8)), 'x.json', 'annotation 1 cannot be read'),
    'two phases among attributes': (cvat(tag('A', grade=1, severity=3)), 'x.xml', 'which attribute of .A. is the phase: grade 1, severity 3'),
    'tags beside images': (cvat(more='<tag frame="3" label="A: 1"/>'), 'x.xml', '<tag> beside images and tracks'),
    'only a comment': ([task(30, result('remark', 'textarea', ['there is blood']))], 'x.json', "holds only a text, 'there is blood'"),
    'a phase and no event': ([task(30, choice('phase', '2'), choice('A', 'none'))], 'x.json', "the label '2' is not in the schema"),
    'a frame that is no number': ('frame,A\n0,1\nx,2\n', 'x.csv', "x.csv:3: 'x' is not a"),
    'labels twice': ('image,answer,A\na_000030.jpg,A: 2,1\n', 'x.csv', "the labels stand twice, in the column 'answer' and in A"),
    'yes of several phases': ('image,bleeding\na_000030.jpg,yes\n', 'x.csv', "'bleeding' with phase 'yes'", NAMED),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(folder, case):
    content, name, complaint, *schema = REFUSED[case]
    with pytest.raises(VQAError, match=complaint) as error: said(folder, content, name, *schema, video='op1' if 'frame' in case else None)
    assert error.value.remedy or case == 'categories that are all unknown'


LABELED = {   # a wrong name, and what stands there in the end when the remedy is followed to the letter
    'an unknown column that holds phases': ('image,A,polyp\na_000030.jpg,,2\n', 'x.csv', {'A': '2'}),
    'an unknown cell of a known event': ('image,B\na_000030.jpg,severe\n', 'x.csv', {'B': '1'}),
    'an unknown label': ('image,label\na_000030.jpg,blood\n', 'x.csv', {'A': '1'}),
    'an event without a phase': ('image,label\na_000030.jpg,C\n', 'x.csv', {'C': '1'}),
    'labels twice': ('image,answer,A\na_000030.jpg,A: 3,3\n', 'x.csv', {'A': '3'}),
    'two attributes': (cvat(tag('A', grade=1, severity=3)), 'x.xml', {'A': '1'}),
    'columns of the data in Label Studio': ('annotation_id,id,image,patient,A\n1,1,a_000030.jpg,Doe,2\n', 'x.csv', {'A': '2'}),
}


@pytest.mark.parametrize('case', LABELED)
def test_the_remedy_followed_as_printed_keeps_the_labels(folder, case, capsys):
    content, name, expected = LABELED[case]
    path, labels = save(folder, content, name), folder / 'labels.jsonl'
    labels.unlink(missing_ok=True)
    assert run(['import', str(path), str(folder)]) == 2
    told = capsys.readouterr().err
    mapping = save(folder, re.findall(r'\{.*?\}', told[told.index('map.json') if 'key that says' not in told else told.index('key that says'):])[0], 'map.json')
    assert run(['import', str(path), str(folder), '--map', str(mapping)]) == 0, capsys.readouterr().err
    assert [SCHEMA.parse(record.answer) for record in read_records(folder)] == [expected]
    labels.unlink()
