import json
from dataclasses import fields

import pytest
import yaml
from hypothesis import given, strategies as st

from paligemma_vqa.training.config import PRESETS, TrainingConfig
from paligemma_vqa.schema import VQAError

BOOLEANS = [f.name for f in fields(TrainingConfig) if isinstance(f.default, bool)]
WHOLE = [f.name for f in fields(TrainingConfig) if type(f.default) is int]
NUMBERS = [f.name for f in fields(TrainingConfig) if type(f.default) is float]


def test_defaults_are_what_users_know():
    c = TrainingConfig()
    assert (c.lora_rank, c.learning_rate, c.batch_size, c.accumulation_steps, c.epochs, c.precision) == (8, 2e-5, 4, 2, 10, 'bf16')
    assert c.lora_targets == ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
    assert c.optimizer == 'adamw_torch' and c.tensorboard and c.freeze_vision and c.soft_capping is None


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


@pytest.mark.parametrize('values', [dict(mode='qlora8'), dict(lora_targets='q_proj'), dict(lora_targets=[]), dict(batch_size=0), dict(epochs=0), dict(base=''),
                                    dict(warmup_ratio=1.0), dict(vision_lora=True), dict(cache_vision=True, augment=True), dict(attention='flash_attention_2'),
                                    dict(attention='sdpa', soft_capping=True), dict(cache_vision=True, freeze_vision=False, vision_lora=True)])
def test_nonsense_is_refused(values):
    with pytest.raises(VQAError): TrainingConfig(**values)


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('suffix', ['.yaml', '.json'])
def test_files_round_trip(tmp_path, preset, suffix):
    config, path = TrainingConfig.preset(preset, seed=7), tmp_path / f'run{suffix}'
    if suffix == '.json': path.write_text(json.dumps(config.to_dict()))
    else: config.save(path)
    assert TrainingConfig.load(path) == config


@given(st.floats(1e-9, 1, exclude_max=True), st.integers(1, 512), st.booleans(), st.sampled_from(['lora', 'qlora', 'full']), st.integers(0, 2 ** 31))
def test_yaml_round_trip(learning_rate, batch_size, use_dora, mode, seed):
    config = TrainingConfig(learning_rate=learning_rate, batch_size=batch_size, use_dora=use_dora, mode=mode, seed=seed)
    assert TrainingConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize('text, complaint', [
    ('learning_rate: [1]', 'learning_rate'), ('lora_r: 8', "Did you mean 'lora_rank'"), ('- 1', 'not a mapping'), ('a: b: c', ':1: not YAML'),
    ('epochs: 3\n\tx: 1', ':2: not YAML'), ('preset: huge', "no preset 'huge'"), ('freeze_vision: "no"', 'true or false')])
def test_file_errors_name_the_file(tmp_path, text, complaint):
    path = tmp_path / 'run.yaml'
    path.write_text(text)
    with pytest.raises(VQAError) as error: TrainingConfig.load(path)
    assert str(path) in str(error.value) and complaint in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(VQAError, match='no such file'): TrainingConfig.load(tmp_path / 'x.yaml')
    (tmp_path / 'b.yaml').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(VQAError): TrainingConfig.load(tmp_path / 'b.yaml')


def test_options_from_a_command_line():
    config = TrainingConfig().with_options(['learning-rate=2e-4', 'use_dora=true', 'max_steps=3', 'lora_targets=[q_proj]', 'soft_capping=null', 'base=tiny'])
    assert (config.learning_rate, config.use_dora, config.max_steps, config.lora_targets, config.soft_capping, config.base) == (2e-4, True, 3, ('q_proj',), None, 'tiny')
    for bad in ('use_dora', 'use_dora=yes please', 'nothing=1'):
        with pytest.raises(VQAError): TrainingConfig().with_options([bad])
