"""The data sets of the race are data sets like any other: whole, readable, split by video, the same each time."""
import json, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('skimage')
from race_data import FRAMES, SCHEMAS, come_and_go, make

from paligemma_vqa.dataset.records import load_schema, read_records
from paligemma_vqa.dataset.splits import read_splits


@pytest.mark.parametrize('name', list(SCHEMAS))
def test_each_is_whole_and_repeatable(tmp_path, name):
    first, again = make(name, tmp_path / 'a', videos=5), make(name, tmp_path / 'b', videos=2)
    schema, records = load_schema(first), list(read_records(first))
    assert len(records) == 5 * FRAMES and schema == SCHEMAS[name]
    seen = {tuple(pair) for record in records for pair in schema.parse(record.answer).items()}
    assert {event for event, _ in seen} == set(schema.events) and {phase for _, phase in seen} == set(schema.phases)
    splits = read_splits(first)
    sides = {splits.side(record) for record in records}
    assert sides == {'train', 'validation', 'test'}
    picture = records[37].image
    assert (first / picture).read_bytes() == (again / picture).read_bytes()


def test_what_comes_again_is_another():
    "An event that comes back after a frame without it has the next number, and with it another look"
    codes, numbers = come_and_go(np.random.default_rng(3), events=4, phases=3, frames=200)
    for its_codes, its_numbers in zip(codes.T, numbers.T):
        begins = np.flatnonzero((its_codes > 0) & (np.r_[0, its_codes[:-1]] == 0))
        assert len(begins) > 10 and its_numbers[begins].tolist() == list(range(len(begins)))


@pytest.mark.slow
def test_a_contestant_prints_an_answer_for_each_picture_of_the_test_split(tmp_path):
    folder = make('changes', tmp_path / 'changes', videos=4)
    command = [sys.executable, Path(__file__).with_name('race.py'), folder, 'constant']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    row, splits = json.loads(done.stdout), read_splits(folder)
    assert len(row['answers']) == sum(splits.side(record) == 'test' for record in read_records(folder))
    assert len(set(row['answers'])) == 1 and load_schema(folder).parse(row['answers'][0])
