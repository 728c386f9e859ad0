"""`train --folds`: each video held out once, and one table with the mean and intervals over videos"""
import json, re

import pytest

from paligemma_vqa.dataset.splits import fold_splits
from paligemma_vqa.dataset.records import Records, load_schema
from small_dataset import make_folder
from terminal import fails, run


@pytest.fixture(scope='module')
def data(tmp_path_factory): return make_folder(tmp_path_factory.mktemp('folds') / 'data', videos=5, frames=4, size=96)


def test_each_video_is_held_out_once(data):
    held_out = [split.splits['test'] for split in fold_splits(Records(data), 3, load_schema(data), 0, data)]
    assert sorted(video for videos in held_out for video in videos) == [f'video{n}' for n in range(5)] and all(held_out)


@pytest.mark.slow
def test_the_table_of_all_folds(data, tmp_path):
    done = run('train', '--data', data, '--model', 'tiny', '--output', tmp_path / 'runs', '--folds', '3', '--set', 'max_steps=2')
    assert done.returncode == 0, done.stderr
    table = (tmp_path / 'runs/folds.md').read_text()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines() if line.startswith('|')]
    assert [row[0] for row in rows[2:]] == ['fold-1', 'fold-2', 'fold-3', '**all**', 'mean over videos ± sd']
    assert [int(row[1]) for row in rows[2:6]][-1] == 5 == sum(int(row[1]) for row in rows[2:5])   # videos
    assert int(rows[5][2]) == 20                                                                   # frames
    assert re.fullmatch(r'\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]', rows[5][6]) and re.fullmatch(r'\d\.\d{3} ± \d\.\d{3}', rows[6][6])
    assert 'Intervals: ' in table
    facts = json.loads((tmp_path / 'runs/folds.json').read_text())
    assert set(facts['folds']) == {'fold-1', 'fold-2', 'fold-3'} and facts['all']['videos'] == 5
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'runs').glob('fold-*/adapter/adapter_model.safetensors')}
    again = run('train', '--data', data, '--model', 'tiny', '--output', tmp_path / 'runs', '--folds', '3', '--set', 'max_steps=2', '--resume', '--json')
    assert again.returncode == 0 and (tmp_path / 'runs/folds.md').read_text() == table and json.loads(again.stdout) == facts
    assert before == {path: path.stat().st_mtime_ns for path in before}   # what is finished stays


@pytest.mark.parametrize('tracker', ['wandb', 'mlflow'])
def test_a_tracker_that_is_not_installed_is_one_clear_line(data, tmp_path, tracker):
    import importlib.util
    if importlib.util.find_spec(tracker): pytest.skip(f'{tracker} is installed')
    fails('train', '--data', data, '--model', 'tiny', '--output', tmp_path / 'c', '--report-to', tracker, says=[tracker, 'pip install'])
