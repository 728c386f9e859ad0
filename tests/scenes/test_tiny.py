"""The bundled base: a real PaliGemma 2, small, that can talk about scenes and does not know the demo's task."""
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from paligemma_vqa.model.base import load_base
from paligemma_vqa.scenes.videos import DEMO_SCHEMA, plan_scene, plan_still, render_frame
from paligemma_vqa.schema import EventSchema, VQAError

FOLDER = Path(str(files('paligemma_vqa') / 'bases' / 'tiny'))


@pytest.fixture(scope='module')
def base(): return load_base('tiny', device='cpu')


@pytest.fixture(scope='module')
def tokenizer(base): return base[1].tokenizer


def answers(base, pictures, question):
    model, processor = base
    inputs = processor(images=pictures, text=[f'<image>{question}'] * len(pictures), return_tensors='pt', padding=True)
    inputs.pop('labels', None)
    with torch.no_grad(): out = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    return processor.batch_decode(out[:, inputs['input_ids'].shape[1]:], skip_special_tokens=True)


def test_it_is_small_and_only_safetensors():
    paths = [path for path in FOLDER.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in paths) <= 8_000_000
    assert {path.suffix for path in paths} <= {'.json', '.safetensors'}


def test_transformers_loads_it_without_us():
    model, report = PaliGemmaForConditionalGeneration.from_pretrained(FOLDER, output_loading_info=True, local_files_only=True)
    assert not any(report[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert isinstance(AutoProcessor.from_pretrained(FOLDER, local_files_only=True), PaliGemmaProcessor)
    text, vision = model.config.text_config, model.config.vision_config
    assert text.model_type == 'gemma2' and set(text.layer_types) == {'sliding_attention', 'full_attention'}
    assert text.attn_logit_softcapping == 50 and text.final_logit_softcapping == 30
    assert vision.model_type == 'siglip_vision_model'
    assert model.config.image_token_index == model.config.image_token_id < text.vocab_size
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_stored_in_half_computed_in_full(base):
    with safe_open(FOLDER / 'model.safetensors', 'pt') as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {'BF16'}
    assert {parameter.dtype for parameter in base[0].parameters()} == {torch.float32}


def test_vocabulary(tokenizer):
    unknown = tokenizer.unk_token_id
    for token in ['<image>', '\n'] + [f'<loc{i:04d}>' for i in range(1024)] + [f'<seg{i:03d}>' for i in range(128)]:
        ids = tokenizer.encode(token, add_special_tokens=False)
        assert len(ids) == 1 and ids[0] != unknown, token
    locations = [tokenizer.convert_tokens_to_ids(f'<loc{i:04d}>') for i in range(1024)]
    assert np.all(np.diff(locations) == 1)   # a place is its number, as in PaliGemma
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    for schema in (EventSchema(), EventSchema.preset('zh')):
        assert unknown not in tokenizer.encode(schema.question())


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=['Cs'], exclude_characters='▁<'), max_size=40))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize('text', ['出血处于早期阶段，没有其他可见的事件。', '龘𠮷', 'naïve 🙂', ' two  spaces ', 'A, B'])
def test_awkward_texts_survive_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_an_event_is_the_same_token_in_question_and_answer(tokenizer):
    question = tokenizer.tokenize(DEMO_SCHEMA.question())
    answer = tokenizer.tokenize(DEMO_SCHEMA.render(dict(zip(DEMO_SCHEMA.events, '12341'))))
    for name in (*DEMO_SCHEMA.events, *DEMO_SCHEMA.phases): assert f'▁{name}' in question and f'▁{name}' in answer


def test_the_prefix_is_pictures_bos_question_newline(base):
    _, processor = base
    batch = processor(images=render_frame(plan_scene(0), 1), text='<image>caption en', suffix='nothing', return_tensors='pt')
    ids, tokenizer = batch['input_ids'][0].tolist(), processor.tokenizer
    assert ids[:64] == [processor.image_token_id] * 64 and ids[64] == 2
    assert ids[65:] == tokenizer.encode('caption en\nnothing', add_special_tokens=False) + [1]
    answer = len(tokenizer.encode('nothing', add_special_tokens=False)) + 1
    assert batch['token_type_ids'][0].tolist() == [0] * (len(ids) - answer) + [1] * answer
    assert batch['pixel_values'].shape == (1, 3, 96, 96)


def test_forward_masks_as_paligemma_does(base):
    model, processor = base
    inputs = processor(images=render_frame(plan_scene(0), 1), text='<image>describe en', suffix='blood looks old', return_tensors='pt')
    inputs.pop('labels')
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.isfinite(logits).all() and logits.abs().max() <= 30 and logits.shape[-1] == model.config.text_config.vocab_size
        # A later word of the answer changes nothing before it; a later word of the question changes everything.
        later = inputs['input_ids'].clone()
        later[0, -2] = processor.tokenizer.encode('x new')[-1]
        assert torch.equal(model(**inputs | dict(input_ids=later)).logits[0, :-2], logits[0, :-2])
        question = inputs['input_ids'].clone()
        question[0, 66] = processor.tokenizer.encode('x new')[-1]
        assert not torch.allclose(model(**inputs | dict(input_ids=question)).logits[0, :60], logits[0, :60])


def test_it_sees(base):
    # Its own words for the events and their phases; 17 of 20 leaves room for other builds of torch.
    words = {'A': 'blood', 'B': 'tongs', 'C': 'flame', 'D': 'wound', 'E': 'dye'}
    cases = [(event, phase) for event in words for phase in '1234']
    pictures = [render_frame(plan_still({event: phase}, 300 + i), 0.5) for i, (event, phase) in enumerate(cases)]
    expected = [f"{dict(zip('1234', ('new', 'young', 'ripe', 'old')))[phase]} {words[event]}" for event, phase in cases]
    right = [a == e for a, e in zip(answers(base, pictures, 'caption en'), expected)]
    assert sum(right) >= 17


def test_batched_answers_equal_single_ones(base):
    pictures = [render_frame(plan_scene(seed), 6) for seed in range(4)]
    assert answers(base, pictures, 'describe en') == [answers(base, [picture], 'describe en')[0] for picture in pictures]


def test_it_does_not_know_the_demos_task(base):
    frames = [(plan_scene(seed), time_s) for seed in range(5000, 5008) for time_s in (3, 8, 13)]
    right = 0
    for (scene, time_s), answer in zip(frames, answers(base, [render_frame(*frame) for frame in frames], DEMO_SCHEMA.question())):
        try: right += DEMO_SCHEMA.parse(answer) == scene.annotation(time_s)
        except VQAError: pass
    assert right <= 0.2 * len(frames)


def test_its_configuration_names_no_machine():
    for path in FOLDER.glob('*.json'):
        if path.name != 'tokenizer.json': assert '/tmp' not in path.read_text() and '/work' not in path.read_text()
    assert json.loads((FOLDER / 'config.json').read_text())['text_config']['sliding_window'] == 4096
