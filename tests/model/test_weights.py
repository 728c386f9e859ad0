"Weights that are not numbers, processors that do not fit, disks that are full: one sentence each, wherever a model is loaded or answers"
import json, shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.model.adapter import AdapterConfig, AdapterInfo, add_adapter, describe_base, load_adapter, save_adapter
from paligemma_vqa.model.base import load_base
from paligemma_vqa.schema import EventSchema, VQAError
from random_base import make_base


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture(scope='module')
def adapter(base, tmp_path_factory):
    model = add_adapter(load_base(base)[0], AdapterConfig())
    return save_adapter(model, tmp_path_factory.mktemp('adapter') / 'a', AdapterInfo(schema=EventSchema(), **describe_base(model, base)))


@pytest.mark.parametrize('wrong', [float('nan'), float('inf')])
def test_one_weight_that_is_not_a_number_is_refused(base, adapter, tmp_path, wrong):
    for whole, name in ((adapter, 'adapter_model.safetensors'), (base, 'model.safetensors')):
        shutil.copytree(whole, folder := tmp_path / name[:5])
        tensors = load_file(folder / name)
        key = next(key for key in sorted(tensors) if 'q_proj' in key)
        tensors[key].flatten()[3] = wrong
        save_file(tensors, folder / name, metadata={'format': 'pt'})
        with pytest.raises(VQAError, match='1 tensor holds weights that are not numbers') as error: Predictor.from_adapter(folder) if whole == adapter else load_base(folder)
        assert str(folder) in str(error.value) and error.value.exit_code == 1


@pytest.mark.parametrize('kind', [torch.int8, torch.float8_e4m3fn])
def test_an_adapter_in_eight_bits(adapter, tmp_path, kind):
    shutil.copytree(adapter, folder := tmp_path / 'a')
    tensors = {name: tensor.to(kind) for name, tensor in load_file(folder / 'adapter_model.safetensors').items()}
    save_file(tensors, folder / 'adapter_model.safetensors')
    if kind.is_floating_point: assert load_adapter(folder)
    else:
        with pytest.raises(VQAError, match='whole numbers'): load_adapter(folder)   # it would answer as the base does


@pytest.mark.parametrize('setting', [dict(lora_alpha=float('nan')), dict(lora_alpha=None), dict(r=0), dict(r='8'), dict(alpha_pattern={'q_proj': float('inf')})], ids=str)
def test_settings_of_an_adapter_that_cannot_be(adapter, tmp_path, setting):
    shutil.copytree(adapter, folder := tmp_path / 'a')
    path = folder / 'adapter_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(VQAError, match='the adapter cannot be'): load_adapter(folder)


def test_an_adapter_with_such_a_weight_is_not_saved(base, tmp_path):
    model = add_adapter(load_base(base)[0], AdapterConfig())
    info = AdapterInfo(schema=EventSchema(), **describe_base(model, base))
    save_adapter(model, tmp_path / 'a', info)
    good = load_file(tmp_path / 'a' / 'adapter_model.safetensors')
    with torch.no_grad(): next(p for p in model.parameters() if p.requires_grad).fill_(float('nan'))
    with pytest.raises(VQAError, match='what was there before is kept'): save_adapter(model, tmp_path / 'a', info)
    assert all(torch.equal(a, good[k]) for k, a in load_file(tmp_path / 'a' / 'adapter_model.safetensors').items())
    assert not (tmp_path / 'a.partial').exists()


@pytest.mark.parametrize('bound', [None, 1e-3])
def test_an_answer_of_values_that_are_not_numbers_is_refused(adapter, bound):
    predictor = Predictor.from_adapter(adapter)
    with torch.no_grad():   # every weight is a number, and their product is none
        for parameter in predictor.model.model.language_model.parameters(): parameter.mul_(1e30)
    with pytest.raises(VQAError, match='not numbers, so it has no answer'): predictor.predict(np.zeros((28, 28, 3), np.uint8), bound=bound)


@pytest.mark.parametrize('change, said', [(dict(image_seq_length=9), 'keeps 9 places'), (dict(size=dict(height=56, width=56)), 'of 56 pixels')])
def test_a_processor_that_does_not_fit_is_found_where_the_model_is_loaded(base, tmp_path, change, said):
    shutil.copytree(base, folder := tmp_path / 'b')
    def put(values):
        if isinstance(values, dict):
            for key in values:
                if key in change: values[key] = change[key]
                else: put(values[key])
    for path in folder.glob('*processor_config.json'):
        values = json.loads(path.read_text())
        put(values)
        path.write_text(json.dumps(values))
    with pytest.raises(VQAError, match=said): load_base(folder)


def test_a_full_disk_is_one_sentence_and_the_old_adapter_stays(adapter, base, tmp_path, monkeypatch):
    shutil.copytree(adapter, tmp_path / 'a')
    model = add_adapter(load_base(base)[0], AdapterConfig())
    def full(*_, **__): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(type(model), 'save_pretrained', full)
    with pytest.raises(VQAError, match='no space left on the disk'): save_adapter(model, tmp_path / 'a', AdapterInfo.load(adapter))
    assert load_adapter(tmp_path / 'a') and not (tmp_path / 'a.partial').exists()
