"""A card that the hub, `datasets` and people can read, and that never takes the place of somebody's own."""
import json, os, shutil

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from paligemma_vqa.dataset.loading import split_dataset
from paligemma_vqa.cards import CARD
from paligemma_vqa.labeling.card import write_card
from paligemma_vqa.dataset.records import LABELS, Record, read_records, write_records
from paligemma_vqa.dataset.lint import lint
from paligemma_vqa.dataset.splits import read_splits
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.labeling.store import LabelStore

SCHEMA = EventSchema()
QUESTION = SCHEMA.question()


def picture(seed): return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path/'case-study'
    (folder/'images').mkdir(parents=True)
    records = []
    for video in range(6):
        for frame in range(4):
            records.append(Record(f'images/v{video}_{frame:04d}.png', QUESTION, SCHEMA.render({'A': '2', 'C': '1'} if frame else {}), dict(annotator='ann', time_s=frame / 2)))
            picture(10 * video + frame).save(folder/records[-1].image)
    write_records(folder, records)
    return folder


def test_tables_are_the_datasets(folder):
    splits = split_dataset(folder)
    text = write_card(folder).read_text()
    assert '| A | 0 | 18 | 0 | 0 | 18 |' in text and '| E | 0 | 0 | 0 | 0 | 0 |' in text
    for side, groups in splits.splits.items(): assert f'| {side} | {len(groups)} | {4 * len(groups)} | {3 * len(groups)} | 0 | {3 * len(groups)} | 0 | 0 | {len(groups)} |' in text
    assert splits.fingerprint in text and "By the video in each file's name" in text and 'ann 24' in text
    assert 'Not a medical device' in text and 'consent' in text and '1 warning' not in text.split('## Checks')[0]


def test_datasets_loads_the_folder(folder, tmp_path):
    write_card(folder)
    loaded = datasets.load_dataset(str(folder), cache_dir=tmp_path/'cache')
    assert list(loaded) == ['labeled'] and [row['image'] for row in loaded['labeled']] == [r.image for r in read_records(folder)]


@pytest.mark.slow
def test_datasets_loads_columns_that_come_late(tmp_path):
    "Its reader guesses types from the first 10 MB; the card says them"
    records = [Record(f'images/v_{i:06d}.png', QUESTION, SCHEMA.render({}), dict(video='v') | (dict(sure=0.5, note='late') if i == 39_999 else {})) for i in range(40_000)]
    write_records(tmp_path, records)
    assert (tmp_path/LABELS).stat().st_size > 11e6
    write_card(tmp_path, findings=[])
    rows = datasets.load_dataset(str(tmp_path), cache_dir=tmp_path/'cache')['labeled']
    assert rows[39_999]['note'] == 'late' and rows[0]['note'] is None and rows.features['sure'].dtype == 'float64'


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0), st.text(max_size=5), st.integers(0, 5))
def test_any_correction_makes_it_somebodys(folder, place, put_in, left_out):
    (folder/CARD).unlink(missing_ok=True)
    text = write_card(folder, findings=[]).read_text()
    place %= len(text)
    changed = text[:place] + put_in + text[place + left_out:]
    if changed.replace('\r\n', '\n') == text: return
    with open(folder/CARD, 'w', encoding='utf-8', newline='') as file: file.write(changed)
    assert write_card(folder, findings=[]) is None and (folder/CARD).read_bytes() == changed.encode()


def test_findings_and_names_fit_the_tables(folder):
    schema = EventSchema(events=('a|b', '出血'), phases=('早', '晚'))
    schema.save(folder/'schema.json')
    records = [Record(r.image, schema.question(), schema.render({'a|b': '早'} if i % 2 else {'出血': '晚'}), dict(source='human')) for i, r in enumerate(read_records(folder))]
    write_records(folder, [*records, Record('images/gone_1.png', schema.question(), 'what?')])
    with open(folder/LABELS, 'a') as file: file.write('{"image": "torn')
    findings = lint(folder)
    text = write_card(folder, findings).read_text()
    for finding in findings: assert f'| {finding.code} | {finding.level} |' in text
    assert '| a&#124;b | 12 | 0 | 12 |' in text and '| 出血 | 0 | 12 | 12 |' in text and '3 errors' in text and str(folder) not in text
    for line in text.splitlines():
        if line.startswith('| a\\|b'): assert line.replace('\\|', '').count('|') == 5


def test_two_annotators(folder):
    (folder/LABELS).unlink()
    for name in ('ann', 'bo', 'chris'):
        with LabelStore(folder, name) as store:
            for i, item in enumerate(store.items[:12 if name != 'chris' else 0]): store.annotate(item, {'A': '1'} if i % (2 if name == 'ann' else 3) else {}, hold='item')
            if name != 'chris': store.set_status(store.items[:12], 'done')
            store.compact()
    text = write_card(folder).read_text()
    assert 'ann and bo: 6 of 12 pictures alike' in text and 'chris' not in text
    assert 'Not yet: `paligemma-vqa split`' in text


def test_pictures_without_a_video_are_on_the_side_of_their_likeness(tmp_path):
    (tmp_path/'images').mkdir()
    names = [f'images/{place}{shot}.png' for place in 'abcdefgh' for shot in 'xy']
    for i, name in enumerate(names): picture(i // 2).save(tmp_path/name)
    write_records(tmp_path, [Record(name, QUESTION, SCHEMA.render({})) for name in names])
    splits = split_dataset(tmp_path)
    assert splits.near_duplicates and read_splits(tmp_path) == splits and all(splits.side(r) for r in read_records(tmp_path))
    text = write_card(tmp_path).read_text()
    assert 'not split' not in text and 'pictures that look alike' in text
    assert not [finding for finding in lint(tmp_path) if finding.code == 'leak']


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_cannot_be_written(folder):
    folder.chmod(0o500)
    try:
        with pytest.warns(UserWarning, match='has no card'): assert write_card(folder, findings=[]) is None
    finally: folder.chmod(0o700)


def test_folder_on_the_hub_loads_as_it_was(folder, tmp_path):
    "A repository in the hub's cache, as a download leaves it; another process, since the cache's place is read at import"
    import subprocess, sys
    splits = split_dataset(folder)
    write_card(folder)
    repository = tmp_path/'hub/datasets--anna--case-study'
    shutil.copytree(folder, repository/'snapshots/0123456789abcdef0123456789abcdef01234567')
    (repository/'refs').mkdir()
    (repository/'refs/main').write_text('0123456789abcdef0123456789abcdef01234567')
    code = 'import json; from paligemma_vqa.dataset.loading import load_dataset; d = load_dataset("anna/case-study"); print(json.dumps([{s: sorted(set(r["video"])) for s, r in d.items()}, d["train"][0]["image"].size]))'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | dict(HF_HUB_OFFLINE='1', HF_HUB_CACHE=str(tmp_path/'hub'), HF_DATASETS_CACHE=str(tmp_path/'tables')))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{side: sorted(groups) for side, groups in splits.splits.items()}, [160, 120]]
