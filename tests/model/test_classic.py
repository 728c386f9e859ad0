"""Whatever PEFT can put on a PaliGemma and save loads as PEFT loads it, merges, and trains on; or is refused in one line"""
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import PaliGemmaForConditionalGeneration

from paligemma_vqa.model.adapter import load_adapter
from paligemma_vqa.model.base import load_base
from paligemma_vqa.model.continued import continue_adapter
from paligemma_vqa.model.elsewhere import describe_elsewhere
from paligemma_vqa.model.info import AdapterInfo, adapter_folder
from paligemma_vqa.model.merged import merge_adapter
from paligemma_vqa.model.task import Task
from paligemma_vqa.schema import EventSchema, VQAError
from random_base import make_base

BARE = ['q_proj', 'o_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj', 'down_proj']   # hit the vision tower, too
KINDS = dict(
    plain=dict(), rslora=dict(r=4, lora_alpha=32, use_rslora=True), dora=dict(use_dora=True), linear=dict(target_modules='all-linear'),
    projector=dict(modules_to_save=['multi_modal_projector']), head_saved=dict(modules_to_save=['lm_head']), both_saved=dict(modules_to_save=['lm_head', 'embed_tokens']),
    head=dict(target_modules=[*BARE, 'lm_head']), embedding=dict(target_modules=[*BARE, 'embed_tokens']), convolution=dict(target_modules=[*BARE, 'patch_embedding']),
    biases=dict(bias='all'), own_biases=dict(lora_bias=True), one_layer=dict(layers_to_transform=[1]), no_tower=dict(exclude_modules=r'.*vision_tower.*'),
    patterns=dict(rank_pattern={'layers.0.self_attn.q_proj': 3}, alpha_pattern={'q_proj': 64}), tokens=dict(trainable_token_indices=[5, 6]),
    pissa=dict(init_lora_weights='pissa'), tower=dict(target_modules=['out_proj', 'fc1', 'fc2']))


@pytest.fixture(scope='module')
def base(tmp_path_factory) -> Path: return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture(scope='module')
def batch(base):
    torch.manual_seed(1)
    model, processor = load_base(base)
    text = processor.tokenizer(['<image>' * processor.image_seq_length + '<bos>What is there?\n'], return_tensors='pt')
    side = model.config.vision_config.image_size
    return dict(text, token_type_ids=torch.zeros_like(text['input_ids']), pixel_values=torch.rand(1, 3, side, side))


@torch.no_grad()
def logits(model, batch): return model.eval()(**batch).logits


def made(base, folder, config) -> torch.nn.Module:
    "What a script without this package trains and saves"
    model = get_peft_model(PaliGemmaForConditionalGeneration.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad: parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_lora_says_what_it_said(base, batch, kind, tmp_path):
    model = made(base, tmp_path / 'a', LoraConfig(**dict(r=8, lora_alpha=16, target_modules=BARE, task_type='CAUSAL_LM', init_lora_weights=False) | KINDS[kind]))
    live = logits(model, batch)
    assert (live - logits(load_base(base)[0], batch)).abs().max() > 0.1
    info = describe_elsewhere(tmp_path / 'a', Task(EventSchema()))
    torch.testing.assert_close(logits(load_adapter(tmp_path / 'a', info=info)[0], batch), live, atol=2e-4, rtol=2e-4)
    goes_on = continue_adapter(load_base(base)[0], tmp_path / 'a')
    torch.testing.assert_close(logits(goes_on, batch), live, atol=2e-4, rtol=2e-4)
    assert {name for name, p in goes_on.named_parameters() if p.requires_grad} == {name for name, p in model.named_parameters() if p.requires_grad}
    if kind not in ('plain', 'head', 'head_saved', 'embedding', 'own_biases'): return
    info.save(tmp_path / 'a')
    if kind == 'own_biases':
        with pytest.raises(VQAError, match='lora_bias'): merge_adapter(tmp_path / 'a', tmp_path / 'm')
        return
    merge_adapter(tmp_path / 'a', tmp_path / 'm')
    for again in (load_adapter(tmp_path / 'm')[0], PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / 'm', dtype=torch.float32)):
        torch.testing.assert_close(logits(again, batch), live, atol=2e-4, rtol=2e-4)


def test_what_is_no_lora_or_not_whole_is_one_line(base, tmp_path):
    task = Task(EventSchema())
    made(base, tmp_path / 'ia3', IA3Config(target_modules=['k_proj', 'down_proj'], feedforward_modules=['down_proj'], task_type='CAUSAL_LM'))
    with pytest.raises(VQAError, match='of the kind IA3, and not LoRA'): load_adapter(tmp_path / 'ia3', info=describe_elsewhere(tmp_path / 'ia3', task))
    made(base, tmp_path / 'run/default', LoraConfig(r=2, target_modules=BARE))
    with pytest.raises(VQAError, match='give one, such as .*default'): AdapterInfo.load(adapter_folder(tmp_path / 'run'))
    (tmp_path / 'run/default/adapter_config.json').unlink()
    with pytest.raises(VQAError, match='no adapter_config.json beside'): describe_elsewhere(tmp_path / 'run/default', task)
    for name in ('adapter_model.bin', 'pytorch_model-00001-of-00002.bin'):
        (folder := tmp_path / name[:-4]).mkdir()
        (folder / name).write_bytes(b'x')
        with pytest.raises(VQAError, match='can run any code') as error: AdapterInfo.load(adapter_folder(folder))
        assert 'safetensors' in error.value.remedy
