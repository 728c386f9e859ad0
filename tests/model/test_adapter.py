import json, subprocess, sys, time

import pytest
import torch
from safetensors.torch import load_file, save_file

from paligemma_vqa.model.adapter import *
from paligemma_vqa.model.base import *
from paligemma_vqa.model.merged import merge_adapter
from paligemma_vqa.schema import EventSchema, VQAError
from random_base import make_base

LAYERS = 2
LANGUAGE = ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj')
TOWER = ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.out_proj', 'mlp.fc1', 'mlp.fc2')
PROJECTOR = {'model.multi_modal_projector.linear.weight', 'model.multi_modal_projector.linear.bias'}


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture(scope='module')
def batch(base):
    processor = load_base(base)[1]
    torch.manual_seed(1)
    text = processor.tokenizer(['<image>' * 4 + '<bos>answer en Which events?\n'] * 2, ['A in the 2 phase<eos>', 'no events.<eos>'],
                               return_token_type_ids=True, padding=True, return_tensors='pt')
    return dict(text, pixel_values=torch.rand(2, 3, 28, 28) * 2 - 1)


def info_for(model, base, **changes): return AdapterInfo(schema=EventSchema(), **describe_base(model, base) | changes)


def disturb(model, seed=3):
    "As if trained: LoRA starts with B = 0, which would hide an adapter that is not there"
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad: parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.05)
    return model


@torch.no_grad()
def logits(model, batch): return model.eval()(**batch).logits


def lora_names(prefix, layers): return {f'{prefix}.{layer}.{name}.lora_{matrix}.weight' for layer in range(LAYERS) for name in layers for matrix in 'AB'}


LANGUAGE_LORA = lora_names('model.language_model.layers', LANGUAGE)
TOWER_LORA = lora_names('model.vision_tower.encoder.layers', TOWER)


@pytest.mark.parametrize('config, names', [
    (AdapterConfig(), LANGUAGE_LORA),
    (AdapterConfig(use_rslora=True), LANGUAGE_LORA),
    (AdapterConfig(use_dora=True), LANGUAGE_LORA | {f'model.language_model.layers.{i}.{n}.lora_magnitude_vector.weight' for i in range(LAYERS) for n in LANGUAGE}),
    (AdapterConfig(lora_targets=('q_proj', 'v_proj')), lora_names('model.language_model.layers', ('self_attn.q_proj', 'self_attn.v_proj'))),
    (AdapterConfig(freeze_vision=False, vision_lora=True), LANGUAGE_LORA | TOWER_LORA),
])
def test_lora_trains_exactly_these(base, config, names): assert set(trainable_names(add_adapter(load_base(base)[0], config))) == names


def test_projector_trains_whole_beside_lora(base):
    names = {name.replace('modules_to_save.', '') for name in trainable_names(add_adapter(load_base(base)[0], AdapterConfig(train_projector=True)))}
    assert names == LANGUAGE_LORA | PROJECTOR


@pytest.mark.parametrize('freeze_vision', [True, False])
@pytest.mark.parametrize('train_projector', [True, False])
def test_full_trains_all_but_what_is_frozen(base, freeze_vision, train_projector):
    model = add_adapter(load_base(base)[0], AdapterConfig(mode='full', freeze_vision=freeze_vision, train_projector=train_projector))
    every = {name for name, _ in model.named_parameters()}
    frozen = ({name for name in every if '.vision_tower.' in name} if freeze_vision else set()) | (set() if train_projector else PROJECTOR)
    assert set(trainable_names(model)) == every - frozen
    assert any('.vision_tower.' in name for name in every) and PROJECTOR <= every


def test_qlora_is_four_bits_in_the_language_model_only(base):
    import bitsandbytes
    model = add_adapter(load_base(base, quantization='nf4', dtype=torch.float32)[0], AdapterConfig(mode='qlora'))
    assert set(trainable_names(model)) == LANGUAGE_LORA
    quantized = {name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert quantized and all('.language_model.' in name for name in quantized) and len(quantized) == LAYERS * len(LANGUAGE)
    layer = model.get_submodule(sorted(quantized)[0])
    assert layer.weight.quant_state.quant_type == 'nf4' and layer.compute_dtype == torch.float32


def test_contradictions_are_errors(base):
    model = load_base(base)[0]
    for config in (AdapterConfig(vision_lora=True), AdapterConfig(freeze_vision=False), AdapterConfig(lora_targets=('nonsense',))):
        with pytest.raises(VQAError): add_adapter(model, config)
    with pytest.raises(VQAError, match='4-bit'):
        add_adapter(load_base(base, quantization='nf4')[0], AdapterConfig(mode='full'))
    with pytest.raises(VQAError, match='already'): add_adapter(add_adapter(model, AdapterConfig()), AdapterConfig())


@pytest.mark.parametrize('config', [AdapterConfig(), AdapterConfig(use_dora=True), AdapterConfig(use_rslora=True, lora_alpha=16),
                                    AdapterConfig(train_projector=True), AdapterConfig(freeze_vision=False, vision_lora=True),
                                    AdapterConfig(mode='full', freeze_vision=False, train_projector=True)],
                         ids=['lora', 'dora', 'rslora', 'projector', 'vision', 'full'])
def test_reloaded_answers_equal_live_ones(base, batch, config, tmp_path):
    model, processor = load_base(base)
    before = logits(model, batch)
    model = disturb(add_adapter(model, config))
    live = logits(model, batch)
    assert (live - before).abs().max() > 0.1
    save_adapter(model, tmp_path / 'a', info_for(model, base, mode=config.mode), processor)
    for merge in (False, True):
        again, _, info = load_adapter(tmp_path / 'a', merge=merge)
        torch.testing.assert_close(logits(again, batch), live, atol=2e-4, rtol=2e-4)
    assert not [p for p in tmp_path.rglob('*') if p.suffix in ('.bin', '.pt', '.pth', '.pkl')]
    merged, _, merged_info = load_adapter(merge_adapter(tmp_path / 'a', tmp_path / 'merged'))
    torch.testing.assert_close(logits(merged, batch), live, atol=2e-4, rtol=2e-4)
    assert merged_info.mode == 'merged' and merged_info.schema == info.schema and merged_info.question == EventSchema().question()


def test_qlora_round_trip(base, batch, tmp_path):
    model = disturb(add_adapter(load_base(base, quantization='nf4', dtype=torch.float32)[0], AdapterConfig(mode='qlora')))
    live = logits(model, batch)
    save_adapter(model, tmp_path / 'a', info_for(model, base, mode='qlora'))
    again, _, _ = load_adapter(tmp_path / 'a', dtype=torch.float32)
    torch.testing.assert_close(logits(again, batch), live, atol=1e-5, rtol=1e-5)


def test_merged_checkpoint_is_plain_transformers(base, batch, tmp_path):
    from transformers import PaliGemmaForConditionalGeneration
    model = disturb(add_adapter(load_base(base, soft_capping=False)[0], AdapterConfig()))
    live = logits(model, batch)
    save_adapter(model, tmp_path / 'a', info_for(model, base))
    merge_adapter(tmp_path / 'a', tmp_path / 'm')
    plain = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / 'm').eval()
    assert plain.config.text_config.attn_logit_softcapping is None and plain.config.text_config.final_logit_softcapping is None
    torch.testing.assert_close(logits(plain, batch), live, atol=2e-4, rtol=2e-4)
    with pytest.raises(VQAError, match='not empty'): merge_adapter(tmp_path / 'a', tmp_path / 'm')


@pytest.fixture
def adapter(base, tmp_path):
    model = disturb(add_adapter(load_base(base)[0], AdapterConfig(freeze_vision=False, vision_lora=True, train_projector=True)))
    return save_adapter(model, tmp_path / 'adapter', info_for(model, base)), model


def rename_keys(folder, rename, targets=None):
    path = folder / 'adapter_model.safetensors'
    save_file({rename(key): value for key, value in load_file(path).items()}, path)
    if targets:
        config = json.loads((folder / 'adapter_config.json').read_text())
        (folder / 'adapter_config.json').write_text(json.dumps(config | dict(target_modules=targets)))


def early_v4(key):  # transformers 4.41 to 4.51
    return (key.replace('model.model.', 'model.').replace('.language_model.', '.language_model.model.').replace('.vision_tower.', '.vision_tower.vision_model.'))


def late_v4(key): return key.replace('.vision_tower.', '.vision_tower.vision_model.')  # 4.52 to 4.57


BARE = [*LANGUAGE, *TOWER]


@pytest.mark.parametrize('rename', [early_v4, late_v4])
@pytest.mark.parametrize('targets', [None, sorted({name.split('.')[-1] for name in BARE}),
                                     r'.*(language_model\.model|language_model|vision_tower\.vision_model\.encoder)\.layers\.\d+\.(self_attn|mlp)\.\w+'])
def test_adapters_of_transformers_4_load_whole(adapter, batch, rename, targets):
    folder, model = adapter
    rename_keys(folder, rename, targets)
    assert any('vision_model' in key for key in load_file(folder / 'adapter_model.safetensors'))
    torch.testing.assert_close(logits(load_adapter(folder)[0], batch), logits(model, batch), atol=2e-4, rtol=2e-4)


def drop(folder, part):
    path = folder / 'adapter_model.safetensors'
    tensors = load_file(path)
    kept = {key: value for key, value in tensors.items() if part not in key}
    assert len(kept) < len(tensors)
    save_file(kept, path)


@pytest.mark.parametrize('part', ['layers.1.self_attn.q_proj.lora_A', 'language_model.layers.1.', 'vision_tower', 'multi_modal_projector.linear.bias'])
def test_missing_keys_are_an_error(adapter, part):
    drop(adapter[0], part)
    with pytest.raises(VQAError, match='missing'): load_adapter(adapter[0])


def test_unexpected_keys_are_an_error(adapter):
    path = adapter[0] / 'adapter_model.safetensors'
    tensors = load_file(path)
    key = next(key for key in tensors if 'layers.1.self_attn.q_proj.lora_A' in key)
    save_file(tensors | {key.replace('layers.1', 'layers.7'): tensors[key].clone()}, path)
    with pytest.raises(VQAError, match='unexpected'): load_adapter(adapter[0])
    save_file(tensors | {'base_model.model.something.weight': tensors[key].clone()}, path)
    with pytest.raises(VQAError, match='unexpected'): load_adapter(adapter[0])


def test_torn_and_pickled_adapters_are_errors(adapter):
    path = adapter[0] / 'adapter_model.safetensors'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VQAError, match='cannot be read'): load_adapter(adapter[0])
    path.rename(adapter[0] / 'adapter_model.bin')
    with pytest.raises(VQAError, match='safetensors'): load_adapter(adapter[0])


def test_another_base_is_an_error(adapter, tmp_path):
    other = make_base(tmp_path / 'other', seed=1)
    with pytest.raises(VQAError, match='another base'): load_adapter(adapter[0], base=other)


def test_moved_base_is_the_same_base(base, adapter, batch, tmp_path):
    import shutil
    shutil.copytree(base, tmp_path / 'moved')
    torch.testing.assert_close(logits(load_adapter(adapter[0], base=tmp_path / 'moved')[0], batch), logits(adapter[1], batch), atol=2e-4, rtol=2e-4)


def test_soft_capping_is_remembered(base, batch, tmp_path):
    model, _ = load_base(base, soft_capping=False)
    assert model.config.text_config._attn_implementation == 'sdpa' and not has_soft_capping(model)
    assert (logits(model, batch) - logits(load_base(base)[0], batch)).abs().max() > 1e-3
    model = disturb(add_adapter(model, AdapterConfig()))
    live = logits(model, batch)
    folder = save_adapter(model, tmp_path / 'a', info_for(model, base))
    torch.testing.assert_close(logits(load_adapter(folder)[0], batch), live, atol=2e-4, rtol=2e-4)
    with pytest.raises(VQAError, match='soft-capping off'): load_adapter(folder, soft_capping=True)
    merged = merge_adapter(folder, tmp_path / 'm')
    config = json.loads((merged / 'config.json').read_text())
    config['text_config']['attn_logit_softcapping'] = 50.0
    (merged / 'config.json').write_text(json.dumps(config))
    with pytest.raises(VQAError, match='soft-capping'): load_adapter(merged)


def test_soft_capping_cannot_be_invented(tmp_path):
    plain = make_base(tmp_path / 'plain', soft_capping=False)
    assert not has_soft_capping(load_base(plain)[0])
    with pytest.raises(VQAError, match='no soft-capping'): load_base(plain, soft_capping=True)


def test_run_folder_stands_for_its_adapter(adapter, batch):
    folder, model = adapter
    torch.testing.assert_close(logits(load_adapter(folder.parent)[0], batch), logits(model, batch), atol=2e-4, rtol=2e-4)


def test_saving_replaces_whole_folders(adapter, base):
    folder, model = adapter
    (folder / 'left over').touch()
    save_adapter(model, folder, info_for(model, base))
    assert sorted(p.name for p in folder.iterdir()) == ['adapter_config.json', 'adapter_model.safetensors', 'paligemma_vqa.json']
    assert sorted(p.name for p in folder.parent.iterdir()) == ['adapter']
    assert '/' not in json.loads((folder / 'adapter_config.json').read_text())['base_model_name_or_path'].replace(str(base), '')


def test_broken_bases_are_errors(base, tmp_path):
    import shutil
    for number, (name, break_it) in enumerate({
        'config.json is missing': lambda f: (f / 'config.json').unlink(),
        'model.safetensors is missing': lambda f: (f / 'model.safetensors').rename(f / 'pytorch_model.bin'),
        'torn': lambda f: (f / 'model.safetensors').write_bytes((f / 'model.safetensors').read_bytes()[:5000]),
        'another model': lambda f: (f / 'config.json').write_text('{"model_type": "bert"}'),
        'not json': lambda f: (f / 'config.json').write_text('{'),
    }.items()):
        folder = tmp_path / str(number)
        shutil.copytree(base, folder)
        break_it(folder)
        with pytest.raises(VQAError, match=str(folder)): load_base(folder)


def test_checkpoint_with_missing_tensors_is_an_error(base, tmp_path):
    import shutil
    shutil.copytree(base, tmp_path / 'b')
    path = tmp_path / 'b' / 'model.safetensors'
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if 'layers.1.mlp' not in key}, path, metadata={'format': 'pt'})
    with pytest.raises(VQAError, match='does not fit'): load_base(tmp_path / 'b')


@pytest.mark.parametrize('offline', ['1', pytest.param('0', marks=pytest.mark.slow)])
def test_absent_hub_weights_say_what_to_do_at_once(tmp_path, offline):
    code = "from paligemma_vqa.model.adapter import load_base\ntry: load_base('google/paligemma2-3b-pt-448')\nexcept Exception as e: print(type(e).__name__, e.exit_code, e)"
    env = dict(PATH='/usr/bin:/bin', HF_HOME=str(tmp_path), HF_HUB_OFFLINE=offline, HF_ENDPOINT='http://127.0.0.1:9', PYTHONPATH=':'.join(sys.path))
    started = time.monotonic()
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True).stdout
    assert out.startswith('VQAError 2') and 'https://huggingface.co/google/paligemma2-3b-pt-448' in out and str(tmp_path) in out
    assert time.monotonic() - started < 200   # the download itself would go on trying for minutes; a busy machine takes one to import


def test_info_survives_a_round_trip(base, tmp_path):
    info = AdapterInfo(schema=EventSchema.preset('zh'), metrics={'exact': 0.5}, **describe_base(load_base(base)[0], base))
    info.save(tmp_path)
    assert AdapterInfo.load(tmp_path) == info
    with pytest.raises(VQAError, match='not an adapter'): AdapterInfo.load(tmp_path / 'nothing')
    (tmp_path / 'paligemma_vqa.json').write_text('{"schema"')
    with pytest.raises(VQAError, match='not JSON'): AdapterInfo.load(tmp_path)
