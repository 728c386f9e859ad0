"""labels.jsonl as others see it: other programs that read it, edit it, or label the same folder"""
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from paligemma_vqa.labeling.agreement import kappa
from paligemma_vqa.dataset.extract import extract_frames
from paligemma_vqa.dataset.records import (FRAMES, LABELS, Record, check_image_path, parse_record, read_records,
                                           split_name, write_records)
from paligemma_vqa.journal import lock_file
from paligemma_vqa.media.reading import video_info
from paligemma_vqa.dataset.pictures import tidy_path
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.labeling.store import LabelStore

SCHEMA = EventSchema()

@pytest.fixture
def folder(tmp_path):
    (tmp_path/'images').mkdir()
    for frame in range(6): (tmp_path/f'images/case_{frame:06d}.jpg').touch()
    (tmp_path/'images/polyp.png').touch()
    return tmp_path

def record(image, annotation, **extra): return Record(f'images/{image}', SCHEMA.question(), SCHEMA.render(annotation), extra)

def later(path): os.utime(path, (time.time() + 5, time.time() + 5))

def test_importing_is_light():
    code = 'import sys, paligemma_vqa.labeling.store, paligemma_vqa.dataset.lint, paligemma_vqa.dataset.formats, paligemma_vqa.dataset.extract; print([m for m in ("torch", "transformers") if m in sys.modules])'
    output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])})
    assert output.stdout.strip() == '[]', output.stderr

@given(st.text(min_size=1, max_size=30))
def test_no_path_leaves_the_folder(path):
    if check_image_path(path) is None:
        inside = os.path.normpath(os.path.join('/data/set', path))
        assert inside.startswith('/data/set/') or inside == '/data/set'

@given(image=st.text('abc_0/', min_size=1, max_size=8), question=st.text(), answer=st.text(), extra=st.dictionaries(st.text(max_size=5), st.none() | st.integers(-2**63, 2**63 - 1) | st.text(max_size=5)))
@settings(max_examples=200)
def test_records_come_back(image, question, answer, extra):
    if check_image_path(image): return
    written = Record(tidy_path(image), question, answer, {key: value for key, value in extra.items() if key not in ('image', 'question', 'answer')})
    assert parse_record(written.to_json()) == written

@pytest.mark.parametrize('name, expected', [('images/v_1.jpg', ('v', 1)), ('v_1.jpg', ('v', 1)), ('images/a/b_2.png', ('a/b', 2)), ('images/case 7_000045.jpg', ('case 7', 45)),
    ('images/手术_000012.jpg', ('手术', 12)), ('images/v1.jpg', (None, None)), ('images/v_x.jpg', (None, None)), ('images/v_12.tar.gz', (None, None)), ('images/a_b_7.webp', ('a_b', 7))])
def test_names(name, expected): assert split_name(name) == expected

def test_datasets_reads_what_the_store_writes(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path_factory.mktemp('cache')))
    from datasets import load_dataset
    with LabelStore(folder, 'anna', questions=['default', 'short']) as store:
        store.set('images/case_000001.jpg', 'A', '2')
        store.set_status(store.items, 'done')
        store.set_note('images/polyp.png', 'a note only here')
        store.accept('images/case_000005.jpg', {'B': '1'}, source='model:tiny')
        expected = store.records()
    rows = load_dataset('json', data_files=str(folder/LABELS), split='train', cache_dir=str(tmp_path_factory.mktemp('cache')))
    assert len(rows) == 14 == len(expected)
    assert [(row['image'], row['question'], row['answer']) for row in rows] == [(r.image, r.question, r.answer) for r in expected]
    assert {row['source'] for row in rows} == {'human', 'model:tiny'}

def test_opening_a_labeled_folder_and_closing_it_keeps_every_line(folder):
    lines = [record('case_000001.jpg', {'A': '1'}, annotator='Dr. Bauer', camera=3), Record('images/polyp.png', 'answer en How many?', 'seven'),
             Record('images/polyp.png', SCHEMA.question(), 'none', dict(nested={'a': [1]}))]
    write_records(folder, lines)
    with LabelStore(folder, 'anna') as store:
        assert store.counts()['done'] == 2 and any('cannot be read under this schema' in notice for notice in store.notices)
        store.set_note('images/case_000003.jpg', 'something')
    assert sorted(read_records(folder), key=repr) == sorted(lines, key=repr)
    with LabelStore(folder, 'anna') as store:                       # nor does a label of ours harm the other question
        store.accept('images/polyp.png', {'C': '1'})
    after = read_records(folder)
    assert lines[0] in after and lines[1] in after and len(after) == 3
    assert list((folder/'labels').glob('*.bak'))

def test_an_edit_by_hand_wins_over_an_older_label_and_loses_to_a_newer_one(folder):
    with LabelStore(folder, 'anna') as store: store.accept('images/polyp.png', {'A': '1'})
    text = (folder/LABELS).read_text()
    (folder/LABELS).write_text(text.replace('A in the 1', 'B in the 4'))
    later(folder/LABELS)
    with LabelStore(folder, 'anna') as store: assert store.annotation('images/polyp.png') == {'B': '4'}
    (folder/LABELS).write_text(text)
    os.utime(folder/LABELS, (0, 0))                                 # an old copy, restored by some program
    with LabelStore(folder, 'anna') as store:
        assert store.annotation('images/polyp.png') == {'B': '4'}
        store.set_note('images/polyp.png', 'x')
    assert 'B in the 4' in (folder/LABELS).read_text()

def test_a_label_taken_back_does_not_return_from_a_stale_file(folder):
    with LabelStore(folder, 'anna') as store: store.accept('images/polyp.png', {'A': '1'})
    store = LabelStore(folder, 'anna')
    store.undo()
    store.journal.close()                                          # killed before labels.jsonl was rewritten
    later(folder/LABELS)
    (folder/'labels/.compacted').unlink()
    with LabelStore(folder, 'anna') as store:
        assert store.status('images/polyp.png') == 'todo'
        store.set_note('images/polyp.png', 'x')
    assert (folder/LABELS).read_text() == ''

def test_a_label_from_outside_for_a_reopened_picture_is_taken_over(folder):
    with LabelStore(folder, 'anna') as store:
        store.accept('images/polyp.png', {'A': '1'})
        store.set_status('images/polyp.png', 'todo')
    write_records(folder, [record('polyp.png', {'B': '3'}, source='cvat')])
    later(folder/LABELS)
    with LabelStore(folder, 'anna') as store:
        assert store.status('images/polyp.png') == 'done' and store.annotation('images/polyp.png') == {'B': '3'}

def test_every_entry_says_who_when_and_under_which_schema(folder):
    with LabelStore(folder, 'anna') as store:
        store.set('images/case_000001.jpg', 'A', '1')
        store.copy_previous('images/case_000000.jpg')
        store.annotate('images/case_000003.jpg', {'B': '1'})
        store.copy_previous('images/case_000004.jpg')
        store.set('images/case_000004.jpg', 'C', '1')
        assert store.copy_previous('images/case_000004.jpg').source == 'copied'
        store.accept('images/case_000005.jpg', {}, source='model:tiny')
        store.undo()
        entries = [json.loads(line) for line in (folder/'labels/anna.jsonl').read_text().splitlines()]
    assert {e['annotator'] for e in entries} == {'anna'} and {e['schema'] for e in entries} == {SCHEMA.fingerprint}
    assert [e['source'] for e in entries] == ['human', 'human', 'human', 'copied', 'model:tiny', 'human']
    assert len({e['id'] for e in entries}) == len(entries) and sorted(e['time'] for e in entries) == [e['time'] for e in entries]

# Agreement, against arithmetic by hand

@given(st.lists(st.tuples(st.sampled_from('xyz'), st.sampled_from('xyz')), min_size=1, max_size=40))
def test_kappa_by_hand(pairs):
    first, second = zip(*pairs)
    n, names = len(pairs), sorted({*first, *second})
    observed = sum(a == b for a, b in pairs) / n
    chance = sum(first.count(name) * second.count(name) for name in names) / n**2
    if len(names) == 1: assert np.isnan(kappa(first, second))
    else: assert kappa(first, second) == pytest.approx((observed - chance) / (1 - chance))

# Frames of a real video

def test_frames_of_a_real_video(bikes, tmp_path):
    taken = extract_frames(bikes, tmp_path, every_s=2)
    assert [frame['time_s'] for frame in taken] == pytest.approx(np.arange(0, video_info(bikes).duration_s, 2), abs=0.05)
    with LabelStore(tmp_path, 'anna') as store:
        assert store.videos == {'bikes': [frame['image'] for frame in taken]}
        store.accept(taken[2]['image'], {'A': '1'})
    assert read_records(tmp_path, check_images=True)[0].time_s == taken[2]['time_s']
    before = {path: path.stat().st_mtime_ns for path in (tmp_path/'images').iterdir()}
    more = extract_frames(bikes, tmp_path, every_s=1)
    assert {frame['image'] for frame in taken} < {frame['image'] for frame in more}
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())       # labeled pictures are never replaced
    assert len((tmp_path/FRAMES).read_text().splitlines()) == len(more)
    assert 1 < len(extract_frames(bikes, tmp_path/'scenes', scene=0.1)) < 40
    for wrong in (dict(every_s=-1), dict(start_s=1e6), dict(scene=0.1, predictor=object())):
        with pytest.raises(VQAError): extract_frames(bikes, tmp_path/'wrong', **wrong)
    with pytest.raises(VQAError, match='no such video'): extract_frames(tmp_path/'none.mp4', tmp_path)


def test_labeling_goes_on_while_labels_jsonl_is_written(folder):
    "Another annotator's program writes for a while: keys do not wait for it, and nothing they say is missing afterwards"
    frames = [f'images/case_{frame:06d}.jpg' for frame in range(6)]
    store = LabelStore(folder, 'anna')
    store.accept(frames[0], {'A': '1'})
    elsewhere = lock_file(folder/'labels/.labels.lock', 5)
    writing = threading.Thread(target=store.compact)
    writing.start()
    try:
        time.sleep(0.2)
        assert writing.is_alive()
        labeling = threading.Thread(target=lambda: [store.accept(frame, {'B': '2'}) for frame in frames[1:]])
        labeling.start()
        labeling.join(20)
        assert not labeling.is_alive() and writing.is_alive()
    finally: elsewhere.release()
    writing.join(20)
    store.close()
    said = {record.image: SCHEMA.parse(record.answer) for record in read_records(folder)}
    assert said == {frames[0]: {'A': '1'}} | {frame: {'B': '2'} for frame in frames[1:]}

def test_many_threads_write_and_label_at_once(folder):
    "No thread waits for another in a circle, and the last writing has everything"
    frames = [f'images/case_{frame:06d}.jpg' for frame in range(6)]
    store = LabelStore(folder, 'anna')
    def label(phase):
        for frame in frames: store.accept(frame, {'A': phase})
    def write():
        for _ in range(6): store.compact()
    threads = [threading.Thread(target=target, args=args) for target, args in [(write, ())] * 2 + [(label, (phase,)) for phase in SCHEMA.phases]]
    for thread in threads: thread.start()
    for thread in threads: thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    said = [store.annotation(frame) for frame in frames]
    store.close()
    assert [SCHEMA.parse(record.answer) for record in read_records(folder)] == said
