"""The data sets of the race are data sets like any other: whole, readable, split by video, the same each time."""
import pytest

pytest.importorskip('skimage')
from race_data import FRAMES, SCHEMAS, make

from paligemma_vqa.dataset.records import load_schema, read_records
from paligemma_vqa.dataset.splits import read_splits


@pytest.mark.parametrize('name', list(SCHEMAS))
def test_each_is_whole_and_repeatable(tmp_path, name):
    first, again = make(name, tmp_path / 'a', videos=10), make(name, tmp_path / 'b', videos=10)
    schema, records = load_schema(first), list(read_records(first))
    assert len(records) == 10 * FRAMES and schema == SCHEMAS[name]
    seen = {tuple(pair) for record in records for pair in schema.parse(record.answer).items()}
    assert {event for event, _ in seen} == set(schema.events) and {phase for _, phase in seen} == set(schema.phases)
    splits = read_splits(first)
    sides = {splits.side(record) for record in records}
    assert sides == {'train', 'validation', 'test'}
    picture = records[37].image
    assert (first / picture).read_bytes() == (again / picture).read_bytes()
