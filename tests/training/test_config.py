from dataclasses import fields

import pytest
import yaml
from hypothesis import given, strategies as st

from paligemma_vqa.training.config import TrainingConfig
from paligemma_vqa.schema import VQAError

BOOLEANS = [f.name for f in fields(TrainingConfig) if isinstance(f.default, bool)]
WHOLE = [f.name for f in fields(TrainingConfig) if type(f.default) is int]
NUMBERS = [f.name for f in fields(TrainingConfig) if type(f.default) is float]


@pytest.mark.parametrize('name', BOOLEANS)
@given(value=st.one_of(st.integers(), st.text(), st.tuples(st.booleans()), st.lists(st.booleans()), st.none(), st.floats()))
def test_only_a_bool_is_a_bool(name, value):
    with pytest.raises(VQAError, match=name): TrainingConfig(**{name: value})


@pytest.mark.parametrize('name', WHOLE)
@given(value=st.one_of(st.booleans(), st.text(), st.tuples(st.integers()), st.floats().filter(lambda x: not x.is_integer()), st.none()))
def test_only_a_whole_number_is_one(name, value):
    with pytest.raises(VQAError, match=name): TrainingConfig(**{name: value})


@pytest.mark.parametrize('name', NUMBERS)
@pytest.mark.parametrize('value', [True, 'fast', None, float('nan'), float('inf'), (0.1,), [0.1], -1.0])
def test_only_a_sensible_number_is_one(name, value):
    with pytest.raises(VQAError, match=name): TrainingConfig(**{name: value})


@given(st.floats(1e-9, 1, exclude_max=True), st.integers(1, 512), st.booleans(), st.sampled_from(['lora', 'qlora', 'full']), st.integers(0, 2 ** 31))
def test_yaml_round_trip(learning_rate, batch_size, use_dora, mode, seed):
    config = TrainingConfig(learning_rate=learning_rate, batch_size=batch_size, use_dora=use_dora, mode=mode, seed=seed)
    assert TrainingConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config
