"""What sees what: every attention implementation on offer against masks written as plain loops."""
import pytest
import torch

from paligemma_vqa.model.base import choose_attention, load_base
from paligemma_vqa.schema import VQAError
from random_base import make_base

IMAGE = 4


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('b') / 'base', layers=2, sliding_window=4096)


@pytest.fixture(scope='module')
def narrow(tmp_path_factory): return make_base(tmp_path_factory.mktemp('b') / 'narrow', layers=2, sliding_window=8)


@pytest.fixture(scope='module')
def one_layer(tmp_path_factory): return make_base(tmp_path_factory.mktemp('b') / 'one', layers=1)


def make_batch(processor, side):
    processor.tokenizer.padding_side = side
    text = processor.tokenizer(['<image>' * IMAGE + '<bos>answer en Which events?\n', '<image>' * IMAGE + '<bos>answer en A?\n'],
                               ['A in the 2 phase, B in the 1 phase<eos>', 'no events.<eos>'], return_token_type_ids=True, padding=True, return_tensors='pt')
    torch.manual_seed(0)
    return dict(text, pixel_values=torch.rand(2, 3, 28, 28))


def may_see(batch, row, query, key, window=None):
    "The prompt sees all of itself; an answer's token sees the prompt and the answer up to itself; nobody sees padding"
    real, kind = batch['attention_mask'][row], batch['token_type_ids'][row]
    if not real[key]: return False
    both_prompt = bool(kind[query] == 0 and kind[key] == 0 and real[query])
    if window is not None and not both_prompt and query - key >= window: return False
    return both_prompt or key <= query


def loop_mask(batch, window=None):
    rows, length = batch['input_ids'].shape
    mask = torch.full((rows, 1, length, length), torch.finfo(torch.float32).min)
    for row in range(rows):
        for query in range(length):
            for key in range(length):
                if may_see(batch, row, query, key, window): mask[row, 0, query, key] = 0
    return mask


@torch.no_grad()
def reference_logits(model, batch, window):
    "One forward of the eager language model with our own masks"
    inner = model.model
    embeddings = inner.get_input_embeddings()(batch['input_ids'])
    features = inner.get_image_features(batch['pixel_values']).pooler_output
    embeddings = embeddings.masked_scatter((batch['input_ids'] == model.config.image_token_id)[..., None].expand_as(embeddings), features)
    positions = torch.arange(1, embeddings.shape[1] + 1)[None]
    mask = {'full_attention': loop_mask(batch), 'sliding_attention': loop_mask(batch, window)}
    hidden = inner.language_model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    logits, cap = model.lm_head(hidden), model.config.text_config.final_logit_softcapping
    return torch.tanh(logits / cap) * cap if cap else logits


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('attention, soft_capping', [('eager', None), ('eager', False), ('sdpa', False),
                                                     *(pytest.param('flex_attention', cap, marks=pytest.mark.slow) for cap in (None, False))])
def test_masks_equal_the_loop(base, attention, soft_capping, side):
    model, processor = load_base(base, attention=attention, soft_capping=soft_capping)
    assert model.config.text_config._attn_implementation == attention and model.config.vision_config._attn_implementation == 'sdpa'
    batch = make_batch(processor, side)
    with torch.no_grad(): found = model(**batch).logits
    expected = reference_logits(load_base(base, attention='eager', soft_capping=soft_capping)[0], batch, window=4096)
    real = batch['attention_mask'].bool()
    torch.testing.assert_close(found[real], expected[real], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize('attention, soft_capping', [('eager', None), ('sdpa', False)])
def test_sliding_window_keeps_the_prompt_whole(narrow, attention, soft_capping):
    model, processor = load_base(narrow, attention=attention, soft_capping=soft_capping)
    batch = make_batch(processor, 'right')
    with torch.no_grad(): found = model(**batch).logits
    eager = load_base(narrow, attention='eager', soft_capping=soft_capping)[0]
    real = batch['attention_mask'].bool()
    expected, wide = reference_logits(eager, batch, window=8), reference_logits(eager, batch, window=4096)
    assert (expected[real] - wide[real]).abs().max() > 0.01   # the window matters here
    torch.testing.assert_close(found[real], expected[real], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('attention, soft_capping', [('eager', None), ('sdpa', False)])
def test_who_influences_whom(one_layer, attention, soft_capping, side):
    "With one layer, d hidden[query] / d embedding[key] is zero exactly where the loop says so"
    model, processor = load_base(one_layer, attention=attention, soft_capping=soft_capping, training=True)
    batch = make_batch(processor, side)
    kept = {}
    handle = model.get_input_embeddings().register_forward_hook(lambda module, args, output: kept.setdefault('embeddings', output.detach().requires_grad_()))
    model.requires_grad_(False)
    hidden = model.model(**batch).last_hidden_state
    handle.remove()
    for row in range(2):
        for query in batch['attention_mask'][row].nonzero()[:, 0].tolist():
            gradient, = torch.autograd.grad(hidden[row, query].square().sum(), kept['embeddings'], retain_graph=True)
            influences = gradient[row].abs().sum(-1) > 0
            for key in range(IMAGE + (batch['attention_mask'][row] == 0).sum().item() * (side == 'left'), hidden.shape[1]):  # image slots are overwritten
                assert influences[key] == may_see(batch, row, query, key), (row, query, key)


def test_a_causal_prompt_would_be_noticed(base):
    model, processor = load_base(base)
    batch = make_batch(processor, 'right')
    with torch.no_grad():
        right, wrong = model(**batch).logits, model(**{k: v for k, v in batch.items() if k != 'token_type_ids'}).logits
    assert (right - wrong).abs().max() > 0.05


@pytest.mark.parametrize('attention, soft_capping, training, device', [
    ('flash_attention_2', False, True, 'cuda'), ('flash_attention_2', False, False, 'cuda'), ('flash_attention_3', True, True, 'cuda'), ('sdpa', True, False, 'cpu'),
    ('sdpa', True, True, 'cuda'), ('flex_attention', True, True, 'cpu'), ('paged|eager', False, False, 'cpu')])
def test_wrong_attention_is_refused(attention, soft_capping, training, device):
    with pytest.raises(VQAError): choose_attention(attention, soft_capping, training, device)


@pytest.mark.slow
def test_flex_attention_agrees_in_bf16(base):
    flex, processor = load_base(base, attention='flex_attention', dtype=torch.bfloat16)
    batch = make_batch(processor, 'right')
    exact = load_base(base, dtype=torch.float32)[0]
    with torch.no_grad():
        target = exact(**batch).logits
        found = flex(**batch | dict(pixel_values=batch['pixel_values'].bfloat16())).logits.float()
    real = batch['attention_mask'].bool()
    assert (found - target)[real].abs().mean() < 0.03 * target[real].abs().mean() + 0.05
