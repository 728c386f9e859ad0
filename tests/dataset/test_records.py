"""What a labels file may hold, whatever it is packed in: every command reads it alike, and refuses the same."""
import gzip, json, warnings
from pathlib import Path

import numpy as np
import pyarrow, pyarrow.parquet
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from paligemma_vqa.command.cli import run
from paligemma_vqa.dataset.asked import read_queue
from paligemma_vqa.dataset.lines import LineError, parse_json, to_line
from paligemma_vqa.dataset.lint import lint
from paligemma_vqa.dataset.loading import load_dataset, split_dataset
from paligemma_vqa.dataset.looks import ALIKE_BITS, near_hashes
from paligemma_vqa.dataset.records import Record, parse_record, read_records, write_records
from paligemma_vqa.schema import EventSchema, VQAError

SCHEMA = EventSchema()
QUESTION, ANSWER = SCHEMA.question(), SCHEMA.render({'E': '3'})
LINE = dict(image='images/a_000030.jpg', question=QUESTION, answer=ANSWER, video='a', frame_index=30, time_s=3.0)
REFUSED = {   # a line of labels.jsonl, and what is said about it
    'time is not a number': (json.dumps(LINE | dict(time_s=float('nan'))), 'number', 'NaN is not a number'),
    'time without end': (json.dumps(LINE | dict(time_s=float('-inf'))), 'number', '-Infinity is not a number'),
    'time too large for a float': (json.dumps(LINE).replace('3.0', '1e999'), 'number', '1e999 is not a number'),
    'not a number deep inside': (json.dumps(LINE | dict(scores=[dict(a=float('nan'))])), 'number', 'NaN'),
    'integer beyond 64 bits': (json.dumps(LINE | dict(id=2**70)), 'number', 'is beyond 64 bits'),
    'integer of 5000 digits': (json.dumps(LINE)[:-1] + ', "id": ' + '9' * 5000 + '}', 'number', 'is beyond 64 bits'),
    'half a character': (json.dumps(LINE | dict(note='\ud800')), 'encoding', 'half a character'),
    'half a character in a key': (json.dumps(LINE | {'\udc00': 1}), 'encoding', 'half a character'),
    'HTML for a frame': (json.dumps(LINE | dict(frame_index='<img src=x>0')), 'where', 'the "frame_index" is'),
    'a text for a frame': (json.dumps(LINE | dict(frame_index='63')), 'where', 'the "frame_index" is'),
    'a video that is a number': (json.dumps(LINE | dict(video=7)), 'where', 'the "video" is 7'),
    'a key twice': (json.dumps(LINE)[:-1] + ', "answer": "none"}', 'record', 'the key "answer" is there twice'),
}


def make_folder(folder:Path, *lines:str, name='labels.jsonl') -> Path:
    (folder/'images').mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder/LINE['image'])
    text = '\n'.join((json.dumps(LINE), *lines)).encode()
    (folder/name).write_bytes(gzip.compress(text) if name.endswith('.gz') else text)
    return folder


@pytest.mark.parametrize('name', ['labels.jsonl', 'labels-0.jsonl.gz'])
@pytest.mark.parametrize('kind', REFUSED)
def test_every_reader_refuses_the_same(kind, name, tmp_path):
    line, code, message = REFUSED[kind]
    folder = make_folder(tmp_path, line, name=name)
    for read in (read_records, load_dataset, split_dataset):
        with pytest.raises(VQAError) as caught: read(folder)
        assert str(caught.value).startswith(f'{folder/name}:2: ') and message in str(caught.value)
    finding, = [finding for finding in lint(folder, pictures=False) if finding.level == 'error']
    assert (finding.line, finding.code) == (2, code) and message in finding.message


@pytest.mark.parametrize('command', ['split', 'lint', 'card', 'export', 'evaluate', 'train'])
def test_every_command_reads_shards(command, tmp_path, capsys):
    folder = make_folder(tmp_path/'d', REFUSED['time is not a number'][0], name='labels-0.jsonl.gz')
    arguments = dict(export=['export', str(folder), str(tmp_path/'out.csv')], evaluate=['evaluate', '--data', str(folder), '--model', 'tiny'],
                     train=['train', '--data', str(folder), '--model', 'tiny', '--output', str(tmp_path/'run')]).get(command, [command, str(folder)])
    code, out = run(arguments), capsys.readouterr()
    if command == 'card': assert code == 0 and 'NaN' in (folder/'README.md').read_text()   # the card tells what lint found
    else: assert code == 2 and 'labels-0.jsonl.gz:2: ' in out.out + out.err and 'Traceback' not in out.err


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just('\ud800'),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_writing_refuses_exactly_what_reading_refuses(extra):
    try: written = to_line(extra)
    except LineError:
        with pytest.raises(LineError): parse_json(json.dumps(extra))
    else: assert parse_json(written) == extra


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(('video', 'frame_index', 'time_s', 'note')), values, max_size=4))
def test_what_write_records_takes_read_records_takes(tmp_path_factory, extra):
    folder = tmp_path_factory.mktemp('d')
    record = Record('images/a.jpg', QUESTION, ANSWER, extra)
    try: write_records(folder, [record])
    except LineError as error: assert not (folder/'labels.jsonl').exists() and "'images/a.jpg'" in error.message
    else: assert [parse_record(read_records(folder)[0].to_json())] == read_records(folder)


# --- Parquet, and what sides are called

def parquet(folder:Path, **files) -> Path:
    "Files of rows: name (with _ for -) to the videos in it"
    (folder/'images').mkdir(parents=True)
    for name, videos in files.items():
        rows = []
        for video in videos:
            for frame in range(4):
                image = f'images/{video}_{frame}.png'
                Image.fromarray(np.random.default_rng(ord(video)).integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((80, 60)).save(folder/image)
                rows.append(dict(image=image, question=QUESTION, answer=ANSWER, video=video, frame_index=frame, time_s=frame / 2))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder/f'{name.replace("_", "-")}.parquet')
    return folder


@pytest.mark.parametrize('name', ['val_00000_of_00001', 'valid', 'dev', 'validation_0'])
def test_validation_under_any_name_is_not_trained_on(name, tmp_path):
    folder = parquet(tmp_path/'d', train_0='ab', **{name: 'c'}, test='d')
    data = load_dataset(folder, decode=False, cache_dir=tmp_path/'cache')
    assert {side: set(rows['video']) for side, rows in data.items()} == dict(train={'a', 'b'}, validation={'c'}, test={'d'})
    splits = split_dataset(folder)
    assert {side: set(groups) for side, groups in splits.splits.items()} == dict(train={'a', 'b'}, validation={'c'}, test={'d'})
    assert not (folder/'splits.json').exists() and run(['split', str(folder)]) == run(['lint', str(folder)]) == 0


# --- folders

@pytest.mark.parametrize('line', ['{"image": "a.jpg"}', '{"image": "a.jpg", "bits": "<b>"}', '{"image": 7, "bits": 1}', '{"image": "a.jpg", "bits": NaN}', '[1]'])
def test_a_queue_is_checked(tmp_path, line):
    (tmp_path/'queue.jsonl').write_text(line)
    with pytest.raises(VQAError, match='queue.jsonl:1: '): read_queue(tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30, unique=True), st.lists(st.sets(st.integers(0, 63), min_size=1, max_size=7), max_size=20))
def test_near_hashes_misses_none(bits, flips):
    bits = list(dict.fromkeys(bits + [bits[i % len(bits)] ^ sum(1 << b for b in flip) for i, flip in enumerate(flips)]))
    expected = {(i, j) for i in range(len(bits)) for j in range(i + 1, len(bits)) if (bits[i] ^ bits[j]).bit_count() <= ALIKE_BITS}
    assert near_hashes(bits) == expected


def test_one_video_from_the_command(tmp_path, capsys):
    folder = tmp_path/'my data'
    (folder/'images').mkdir(parents=True)
    records = []
    for i in range(34):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((80, 60)).save(folder/f'images/op_{i}.png')
        records.append(Record(f'images/op_{i}.png', QUESTION, SCHEMA.render({'A': '1234'[i // 9]}), dict(video='op', time_s=float(i))))
    write_records(folder, records)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert run(['split', str(folder), '--gap', '2', '--json']) == 0
        said = json.loads(capsys.readouterr().out)
        assert said['gap_s'] == 2 and said['by'] == 'time blocks' and all(said['splits'][side] for side in ('train', 'validation', 'test'))
        assert run(['split', str(folder), '--by', 'video']) == 0 and json.loads((folder/'splits.json').read_text())['splits']['test'] == []
        assert run(['split', str(folder), '--by', 'time']) == 0 and 'figures are too good' in capsys.readouterr().out
    assert run(['lint', str(folder)]) == 0 and 'About 12 tested videos' in capsys.readouterr().out
