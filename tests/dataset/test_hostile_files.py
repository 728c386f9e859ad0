"""Files that no tool writes, or that somebody wrote to do harm: imported in part with what was left out told, or one line that
names the file; never a traceback, a hang, a label that nobody gave, or a file written elsewhere"""
import gzip, io, json, signal, zipfile
from pathlib import Path

import pytest
from small_dataset import make_folder
from terminal import run

PICTURE = 'images/video0_000000.png'
CATEGORIES = [dict(id=1, name='A'), dict(id=2, name='B')]


def shop(**values): return dict(images=[dict(id=1, file_name=PICTURE)], annotations=[dict(image_id=1, category_id=1)], categories=CATEGORIES) | values
def task(*results, **more): return [dict(data=dict(image=PICTURE), annotations=[dict(result=list(results), **more)])]
def choices(*values): return dict(type='choices', from_name='c', value=dict(choices=list(values)))
def lines(*entries): return '\n'.join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries) + '\n'
def cvat(inside): return f'<annotations>{inside}</annotations>'


def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items(): archive.writestr(name, content)
    return out.getvalue()


LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + ''.join(
    f'<!ENTITY {chr(98 + i)} "{("&" + chr(97 + i) + ";") * 10}">' for i in range(9)) + ']><annotations><image name="&j;"/></annotations>'
FILES = {
    # JSON of any shape
    'deep.json': '[' * 100_000 + ']' * 100_000, 'deep_objects.json': '{"a":' * 5000 + '1' + '}' * 5000, 'deep.jsonl': '[' * 50_000,
    'null.json': 'null', 'numbers.json': [1, 2, 3], 'texts.json': ['a'], 'nulls.json': [None, None], 'empty.json': '', 'blank.json': '  \n',
    'twice.json': '{"images":[],"images":{},"annotations":1,"categories":null}', 'no_numbers.json': '[NaN,Infinity,{"image":NaN}]',
    'long_number.json': '[' + '9' * 5000 + ']', 'long_number.jsonl': f'{{"image":"{PICTURE}","answer":{"9" * 5000}}}\n',
    # COCO
    'coco_nulls.json': dict(images=None, annotations=None, categories=None), 'coco_texts.json': dict(images='a', annotations='b', categories='c'),
    'coco_kinds.json': dict(images=[dict(id=[1], file_name=5)], annotations=[dict(image_id={}, category_id=None)], categories=[dict(id='x', name=None)]),
    'coco_infinite.json': json.dumps(shop()).replace('"id": 1', '"id": 1e400').replace('"category_id": 1', f'"category_id": {"9" * 23}'),
    'coco_paths.json': dict(shop(), images=[dict(id=i, file_name=name) for i, name in enumerate((
        '../../../etc/passwd', '/etc/passwd', 'C:\\x\\y.png', '\\\\server\\share\\a.png', 'images%2Fvideo0_000000.png', 'a\0b.png', 'x' * 5000))],
        annotations=[dict(image_id=i, category_id=1) for i in range(8)]),
    # Label Studio
    'studio_nulls.json': [dict(id=1, data=None, annotations=None)], 'studio_list.json': [dict(data=dict(image=[1]), annotations=[dict(result=[dict(type='choices', value=None)])])],
    'studio_address.json': [dict(data=dict(image='http://[::1/x.jpg'), annotations=[dict(result=[choices(1, None, {})], created_at=5)])],
    'studio_objects.json': [dict(data=dict(image=PICTURE), annotations=dict(result=[])), dict(data=dict(image=PICTURE), annotations=['x'])],
    'studio_text.json': [dict(data=dict(image=PICTURE), annotations=[dict(result='x', was_cancelled='no')])],
    'studio_taxonomy.json': task(dict(type='taxonomy', from_name='t', value=dict(taxonomy=[['A', ['2']], None, 5]))),
    'studio_date.json': task(choices('A: 2'), created_at='not a date', completed_by=[]),
    # JSON lines
    'kinds.jsonl': lines(dict(image=5, answer=[]), dict(image=None), [], 'null', '1e400', f'{{"image":"{PICTURE}","answer":"x","frame_index":-5,"time_s":1e400}}'),
    'zero.jsonl': b'{"image":"a\\u0000b","answer":"x"}\n\0\0\0\n', 'two_encodings.jsonl': '{"image":"é"}\n'.encode('utf-16') + '{"image":"é"}\n'.encode('latin1'),
    'half.jsonl': '{"image":"\\ud800.png","answer":"\\udfff"}\n', 'mark.jsonl': f'\ufeff{{"image":"{PICTURE}","answer":5}}\n',
    'messages.jsonl': lines(dict(messages=[None, 5, dict(role=None, content=[None, {}])], images=[None]), dict(messages='x', images='y')),
    'sharegpt.json': [dict(conversations=[{'from': 'human'}, None], images=5), dict(conversations=None, image=None)],
    'prefix.jsonl': lines(dict(image=PICTURE, prefix=None, suffix=None), dict(image=PICTURE, prefix=5, suffix=[])),
    'rows.json': dict(rows=[dict(image=None, event=5)]), 'segments.json': [dict(event='A', phase='1', start_s='x', end_s=None), dict(event=None)],
    'segments_far.json': dict(segments=[dict(event='A', phase='1', start_s=-5, end_s=1e30)]),
    # XML
    'laughs.xml': LAUGHS, 'entity.xml': '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><image id="0" name="&x;"/></annotations>',
    'cut.xml': '<annotations><image name="a"', 'cvat_empty.xml': cvat('<image id="x" name="" width="nan"><tag label=""/></image><image/>'), 'page.xml': '<html><body/></html>',
    'cvat_frames.xml': cvat('<track label="A"><box frame="x" outside="maybe"/><box frame="-3"/><box frame="1e9"/><box/></track><track/>'),
    'deep.xml': cvat('<a>' * 20_000 + '</a>' * 20_000), 'unknown.xml': '<?xml version="1.0" encoding="nope"?><annotations/>', 'sixteen.xml': '<?xml version="1.0" encoding="utf-16"?><annotations/>',
    'times.eaf': '<ANNOTATION_DOCUMENT><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="x"/><TIME_SLOT/></TIME_ORDER><TIER TIER_ID="A"><ANNOTATION><ALIGNABLE_ANNOTATION '
                 'TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t9"><ANNOTATION_VALUE/></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>',
    'bare.eaf': '<ANNOTATION_DOCUMENT><TIER/><TIER TIER_ID="A"><ANNOTATION/></TIER></ANNOTATION_DOCUMENT>',
    # BORIS
    'nulls.boris': dict(observations=None, behaviors_conf=None), 'lists.boris': dict(observations={'o': []}, behaviors_conf=[], project_format_version=7),
    'list.boris': dict(observations=[1, 2], behaviors_conf={}), 'texts.boris': dict(observations='x', behaviors_conf='y'), 'null_kind.boris': dict(observations={}, behaviors_conf={'0': None}),
    'events.boris': dict(observations={'o': dict(events=[[None], ['x', 'y'], 5, [1e308, 's', 'A', '', ''], ['nan', '', 'A', '', '']], file=5)}, behaviors_conf={'0': None}),
    # Tables
    'long_field.csv': f'image,event\n{PICTURE},{"x" * 140_000}\n', 'zero.csv': b'image,event\na\0b,A\n', 'twice.csv': f'image,image,event,event\n{PICTURE},a,A,B\n',
    'frames.csv': 'video,frame,event,phase\nv,-3,A,1\nv,1e400,A,1\nv,nan,A,1\nv,x,A,1\n', 'quote.csv': f'image,event\n"{PICTURE},A\n{PICTURE},B\n',
    'intervals.csv': 'video,event,phase,start_s,end_s\nvideo0,A,1,5,3\nvideo0,A,1,nan,inf\nvideo0,A,1,-1,1e400\n,,,,\nvideo0,A,1,1:2:3:4,x\n',
    'ragged.csv': f'image,event,phase\n{PICTURE}\n{PICTURE},A,1,2,3,4\n,,\n', 'sixteen.csv': 'image,event,phase\n图.png,A,1\n'.encode('utf-16'), 'bytes.csv': bytes(range(256)) * 50,
    'one.csv': 'x', 'phases.txt': 'Frame\tPhase\n-1\tA\nx\tB\n1e400\t\n\t\n', 'tools.txt': 'Frame A B\n0 1 2\n25 x 1\n',
    # Packed
    'torn.jsonl.gz': gzip.compress(b'{"image":"a"}\n' * 100)[:40], 'bomb.jsonl.gz': gzip.compress(b'0' * 20_000_000, 1), 'empty.zip': zipped(), 'torn.zip': zipped(a='[]')[:50],
    'bomb.zip': zipped(**{'../../evil.json': '[]', 'big.json': '0' * 20_000_000}), 'rubbish.parquet': b'PAR1rubbishPAR1',
}


@pytest.fixture(scope='module')
def data(tmp_path_factory): return make_folder(tmp_path_factory.mktemp('hostile') / 'data', videos=2, frames=2)


@pytest.mark.parametrize('name', FILES)
def test_a_hostile_file_is_one_line_and_changes_nothing(data, name):
    content, before = FILES[name], (data / 'labels.jsonl').read_bytes()
    path = data.parent / name
    path.write_bytes(content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode('utf-8', 'surrogatepass'))
    there = set(data.parent.rglob('*'))
    def late(*_): raise TimeoutError('longer than 20 s')
    usual = signal.signal(signal.SIGALRM, late)
    try:
        for more in ((), ('--empty', 'nothing')):      # by which whatever is not understood would become a negative
            signal.alarm(20)
            done = run('import', path, data, *more)
            signal.alarm(0)
            errors = [line for line in done.stderr.splitlines() if line.startswith('Error:')]
            assert 'Traceback' not in done.stderr and 'should not happen' not in done.stderr and 'longer than' not in done.stderr, done.stderr[-500:]
            assert done.returncode == 0 and not errors or done.returncode in (1, 2) and len(errors) == 1 and name in errors[0], done.stderr[-500:]
            assert (data / 'labels.jsonl').read_bytes() == before, done.stdout    # what is understood says the same, or contradicts and is told
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
        path.unlink()
    assert set(data.parent.rglob('*')) <= there and not Path(data.parent.parent / 'evil.json').exists()
