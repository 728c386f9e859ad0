"""What must hold for every split, whatever the records: nothing on two sides, nothing lost, nothing that moves."""
import json, string, warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from PIL import Image

from paligemma_vqa.dataset.loading import leak_report, load_dataset, split_dataset
from paligemma_vqa.dataset.lint import lint
from paligemma_vqa.model.prompt import format_prompt
from paligemma_vqa.dataset.records import Record, write_records
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.dataset.balance import ALL_PICTURES
from paligemma_vqa.dataset.blocks import moment
from paligemma_vqa.dataset.splits import (RATIOS, assign_groups, fold_splits, read_splits, split_by_group, write_splits)

SCHEMA = EventSchema()
QUESTION = SCHEMA.question()
annotations = st.dictionaries(st.sampled_from(SCHEMA.events), st.sampled_from(SCHEMA.phases), max_size=3)
videos = st.text(string.ascii_letters + 'é图', min_size=1, max_size=3)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@st.composite
def datasets_of_videos(draw, min_videos=1, max_videos=12):
    "Records of several videos, named by the file or by the record, in any order"
    records = []
    for video in draw(st.lists(videos, min_size=min_videos, max_size=max_videos, unique=True)):
        is_named = draw(st.booleans())
        for frame, annotation in enumerate(draw(st.lists(annotations, min_size=1, max_size=6))):
            records.append(Record(f'images/{video}_{frame:04d}.png', QUESTION, SCHEMA.render(annotation), {'video': video} if is_named else {}))
    return draw(st.permutations(records))


def split(records, **options):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return split_by_group(records, SCHEMA, **options)


@quick
@given(datasets_of_videos(min_videos=3), st.integers(0, 5))
def test_every_record_has_one_side_and_every_video_too(records, seed):
    splits = split(records, seed=seed)
    groups = [group for side in splits.splits.values() for group in side]
    assert len(groups) == len(set(groups)) and set(groups) == {r.video for r in records}
    assert all(splits.side(r) in RATIOS for r in records)
    for video in groups: assert len({splits.side(r) for r in records if r.video == video}) == 1


@quick
@given(datasets_of_videos(), st.randoms(use_true_random=False))
def test_order_of_records_does_not_matter(records, random):
    shuffled = list(records)
    random.shuffle(shuffled)
    assert split(shuffled).sides == split(records).sides


@quick
@given(datasets_of_videos(min_videos=3), datasets_of_videos(), st.integers(0, 3))
def test_appending_moves_nothing(old, new, seed):
    before = split(old, seed=seed)
    after = split([*old, *new], previous=before)
    assert {group: after.sides[group] for group in before.sides} == before.sides
    assert all(after.side(r) for r in (*old, *new))
    again = split([*old, *new], previous=after)
    assert again == after
    assert split(new, previous=after).sides == after.sides     # what was deleted may come back


@quick
@given(datasets_of_videos(min_videos=3))
def test_no_side_is_empty_when_there_are_enough_videos(records):
    assert all(split(records).splits[side] for side in RATIOS)


@st.composite
def timed_videos(draw):
    "One or two videos with times, as dense or as sparse as anybody labels"
    records = []
    for video in ('a', 'b')[:draw(st.integers(1, 2))]:
        times = np.cumsum(draw(st.lists(st.sampled_from((0.04, 0.5, 1.0, 2.0, 30.0, 300.0)), min_size=8, max_size=60))).round(3)
        records += [Record(f'images/{video}_{i}.png', QUESTION, SCHEMA.render(draw(annotations)), dict(video=video, time_s=float(t)))
                    for i, t in enumerate(times)]
    return records


@quick
@given(timed_videos(), timed_videos(), st.integers(0, 3))
def test_blocks_of_time_keep_their_distance(records, more, seed):
    splits = split(records, seed=seed)
    assert splits.by == 'time blocks' and splits.caution and splits.splits['train']
    def check(splits, records):
        placed = [(r.video, moment(r), splits.side(r)) for r in records if splits.side(r)]
        for video, time, side in placed:
            assert all(abs(time - other) >= splits.gap_s - 1e-6 for v, other, s in placed if v == video and s != side)
        left_out = [r for r in records if splits.group(r) is None]
        assert not splits.gap_s or all(r.video in splits.blocks for r in left_out)
    check(splits, records)
    # Labeled later, and read from the disk: what has a side keeps it, and the distance holds.
    after = split([*records, *more], previous=splits)
    assert after.sides.items() >= splits.sides.items()
    check(after, [*records, *more])


def test_one_video_gives_three_sides(tmp_path):
    records = [Record(f'images/op_{i:06d}.png', QUESTION, SCHEMA.render({'A': '1234'[i // 9]} if i % 3 else {}), dict(video='op', time_s=float(i))) for i in range(34)]
    (tmp_path/'images').mkdir()
    for i, record in enumerate(records): scene(i, size=(32, 24)).save(tmp_path/record.image)
    write_records(tmp_path, records)
    with pytest.warns(UserWarning, match=r'1 video is split into blocks of time, 1.65 s apart \(\d+ of 34 pictures lie between'): data = load_dataset(tmp_path)
    assert all(len(rows) > 2 for rows in data.values()) and len(data['train']) > 12
    assert data['train'][0]['video'].startswith('op 0–')
    write_splits(tmp_path, read_splits(tmp_path))
    with pytest.warns(UserWarning, match='figures are too good'): assert split_dataset(tmp_path) == read_splits(tmp_path)
    report = leak_report(tmp_path)
    assert report.groups == ('op',) and not report.is_clean and report.caution in str(report)
    finding, = [f for f in lint(tmp_path) if f.code == 'videos']
    assert 'figures too good' in finding.message and '3 videos' in finding.message and '12' in finding.message


@quick
@given(datasets_of_videos(min_videos=4), st.integers(2, 4), st.integers(0, 3))
def test_folds(records, folds, seed):
    parts = fold_splits(records, folds, SCHEMA, seed)
    videos = sorted({r.video for r in records})
    assert sorted(g for part in parts for g in part.splits['test']) == videos
    for part in parts:
        assert sorted(part.sides) == videos and part.splits['test'] and part.splits['train'] + part.splits['validation']
        assert sum(len(groups) for groups in part.splits.values()) == len(videos)
    assert len({part.fingerprint for part in parts}) == folds


@quick
@given(st.dictionaries(videos, st.dictionaries(st.sampled_from((('A', '1'), ('B', '2'), ('C', '3'), ALL_PICTURES)), st.integers(1, 50), min_size=1), min_size=1, max_size=40),
       st.dictionaries(st.sampled_from(('train', 'validation', 'test', 'extra')), st.floats(0.05, 1), min_size=1), st.integers(0, 9))
def test_assignment_is_total_and_seeded(counts, ratios, seed):
    counts = {group: Counter(labels) for group, labels in counts.items()}
    sides = assign_groups(counts, ratios, seed)
    assert set(sides) == set(counts) and set(sides.values()) <= set(ratios)
    assert sides == assign_groups(dict(reversed(counts.items())), ratios, seed)
    assert len(set(sides.values())) == min(len(counts), len(ratios))


@quick
@given(datasets_of_videos())
def test_splits_survive_the_disk(tmp_path, records):
    splits = split(records)
    write_splits(tmp_path, splits)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_splits(tmp_path) == splits
    assert read_splits(tmp_path).fingerprint == splits.fingerprint


def scene(seed, shift=0, size=(320, 240)):
    random = np.random.default_rng(seed)
    pixels = np.asarray(Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(np.roll(pixels, shift, 1))


def test_lone_pictures_go_by_looks(tmp_path):
    (tmp_path/'images').mkdir()
    names = []
    for place in 'abcdefgh':
        for shot in 'xyz':
            names.append(f'images/{place}{shot}.jpg')
            scene(ord(place), 'xyz'.index(shot)).save(tmp_path/names[-1], quality=70 + 10 * 'xyz'.index(shot))
    write_records(tmp_path, [Record(name, QUESTION, SCHEMA.render({})) for name in names])
    splits = split_dataset(tmp_path)
    assert splits.by == 'near-duplicates' and len(splits.sides) == 8
    for place in 'abcdefgh': assert len({splits.side(Record(f'images/{place}{shot}.jpg', '', '')) for shot in 'xyz'}) == 1
    assert leak_report(tmp_path).is_clean
    # A new view of an old scene goes where the scene is, in whatever order the records come.
    scene(ord('c'), 3).save(tmp_path/'images/aaa.jpg')
    write_records(tmp_path, [Record(name, QUESTION, SCHEMA.render({})) for name in ['images/aaa.jpg', *reversed(names)]])
    grown = split_dataset(tmp_path)
    assert grown.sides == splits.sides and grown.group(Record('images/aaa.jpg', '', '')) == splits.group(Record('images/cx.jpg', '', ''))
    assert grown.near_duplicates.items() >= splits.near_duplicates.items()


def test_one_name_for_all_goes_by_looks_with_a_warning(tmp_path):
    (tmp_path/'images').mkdir()
    records = [Record(f'images/merge_{i:06d}.jpg', QUESTION, SCHEMA.render({})) for i in range(12)]
    for i, record in enumerate(records): scene(i // 2, i % 2).save(tmp_path/record.image)
    write_records(tmp_path, records)
    with pytest.warns(UserWarning, match="named after one video, 'merge'"): splits = split_dataset(tmp_path)
    assert splits.by == 'near-duplicates' and all(splits.splits[side] for side in RATIOS)
    assert {side: len(rows) for side, rows in load_dataset(tmp_path).items()} == Counter(splits.side(r) for r in records)
    # Named in the records it is one video without times but with frame numbers, and is split in blocks of time.
    write_records(tmp_path, [Record(r.image, QUESTION, r.answer, {'video': 'merge'}) for r in records])
    with pytest.warns(UserWarning, match='1 video is split into blocks of time'): one = split_dataset(tmp_path, anew=True)
    assert one.by == 'time blocks' and all(one.splits[side] for side in RATIOS)
    with pytest.warns(UserWarning, match='nothing is left for validation and test. Label another video'): one = split_dataset(tmp_path, anew=True, by='video')
    assert one.splits == {'train': ('merge',), 'validation': (), 'test': ()}
    with pytest.warns(UserWarning): assert [len(rows) for rows in load_dataset(tmp_path).values()] == [12, 0, 0]


def test_leaks_are_found(tmp_path):
    (tmp_path/'images').mkdir()
    records = [Record(f'images/{v}_{f}.png', QUESTION, SCHEMA.render({})) for v in 'abcdef' for f in range(3)]
    for i, record in enumerate(records): scene(i).save(tmp_path/record.image)
    write_records(tmp_path, records)
    splits = split_dataset(tmp_path)
    assert leak_report(tmp_path).is_clean and len(leak_report(tmp_path).checks) == 3
    train, test = splits.splits['train'][0], splits.splits['test'][0]
    (tmp_path/f'images/{test}_0.png').write_bytes((tmp_path/f'images/{train}_0.png').read_bytes())
    Image.open(tmp_path/f'images/{train}_1.png').resize((200, 150)).save(tmp_path/f'images/{test}_1.png')
    for v in (train, test): Image.new('RGB', (64, 64)).save(tmp_path/f'images/{v}_2.png')   # two black frames say nothing
    (tmp_path/f'images/{splits.splits["validation"][0]}_0.png').write_bytes(b'broken')
    report = leak_report(tmp_path)
    assert set(report.exact) == {tuple(f'images/{v}_{f}.png' for v in sorted((train, test))) for f in (0, 2)}
    assert tuple(sorted((f'images/{train}_1.png', f'images/{test}_1.png'))) in report.alike
    assert not any('_2.png' in name for pair in report.alike for name in pair)
    assert 'look at these' in str(report) and json.dumps(report.to_dict())


pieces = [*'abc en<>AI?图 \n\t\u3000', 'answer en ', 'answer en', 'Answer', '<image>', '<bos>', '<eos>', '<im', 'age>']
text = st.lists(st.sampled_from(pieces), max_size=12).map(''.join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(text, st.text()))
@example('answer en answer en q')
@example('<im<image>age>answer en q')
def test_prompt_is_idempotent(question):
    try: prompt = format_prompt(question)
    except Exception as error:
        assert 'the question is empty' in str(error)
        return
    assert format_prompt(prompt) == prompt == format_prompt(f' {prompt}\n') == format_prompt(f'answer en {question}')
    assert prompt.startswith('<image>answer en ') and prompt.count('<image>') == 1
    rest = prompt.removeprefix('<image>answer en ')
    assert rest == ' '.join(rest.split()) != '' and not rest.lower().startswith('answer en ')
