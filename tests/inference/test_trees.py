"""Decoding on token trees equals `generate`, token for token, and one forward pass of the whole sequence, number for number."""
import numpy as np
import pytest
import torch
from decoding_models import (TOKENIZERS, boundless_tokenizer, brute_force, byte_level_tokenizer, constrained_generate, make_inputs, pad, random_model, row_of)
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, get_peft_model

from paligemma_vqa.inference.automaton import AnswerAutomaton
from paligemma_vqa.inference.greedy import decode
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.inference.trees import TreeSession

SCHEMA = EventSchema(events=('A', 'B', 'C'), phases=('1', '2', '10'))


def answers(model, automaton, inputs, **options):
    session = TreeSession(model, automaton, inputs)
    found = decode(session, **options)
    return [d.tokens for d in found], session


def same_nodes(one, other, row):
    "The pairs of nodes that stand for the same tokens and have run in both sessions"
    waiting = [(0, 0)]
    while waiting:
        a, b = waiting.pop()
        if one.has_run(row, a) and other.has_run(row, b): yield a, b
        for (parent, token), child in one.children[row].items():
            if parent == a and (b, token) in other.children[row]: waiting.append((child, other.children[row][b, token]))


@torch.no_grad()
def whole_sequence_hidden(model, inputs, row, tokens):
    "Hidden states that predict each of `tokens`, from one ordinary forward pass over question and answer"
    one = row_of(inputs, row)
    ids = torch.cat([one['input_ids'], torch.tensor([tokens])], 1)
    kinds = torch.cat([torch.zeros_like(one['input_ids']), torch.ones(1, len(tokens), dtype=torch.long)], 1)
    out = model.model(input_ids=ids, token_type_ids=kinds, attention_mask=torch.ones_like(ids), pixel_values=one['pixel_values'])
    return out.last_hidden_state[0, one['input_ids'].shape[1] - 1:-1]


@pytest.mark.parametrize('seed', [0, 1, 5])
def test_answers_equal_generate_over_many_pictures_batches_and_policies(automaton, seed):
    model = random_model(len(automaton.tokenizer), seed=seed)
    inputs = make_inputs(model, automaton.tokenizer, 12)
    expected = constrained_generate(model, automaton, inputs)
    assert len(set(expected)) > 1 and len(set(map(len, expected))) > 1     # otherwise this test would say little
    others = [[expected[-1 - i], expected[0]] for i in range(12)]
    for options in (dict(width=0), dict(width=5), dict(width=40), dict(drafts=[[t] for t in expected], width=0), dict(drafts=others, width=0), dict(drafts=others)):
        assert answers(model, automaton, inputs, **options)[0] == expected, options
    for size in (1, 3, 8):
        batches = [{k: v[i:i + size] for k, v in inputs.items()} for i in range(0, 12, size)]
        assert [t for b in batches for t in answers(model, automaton, b)[0]] == expected


@pytest.mark.parametrize('make_tokenizer', TOKENIZERS)
@pytest.mark.parametrize('answer_format', ['sentence', 'list', 'json'])
def test_answers_equal_generate_for_every_tokenizer_and_format(make_tokenizer, answer_format):
    schema = EventSchema(events=('tear', 'tear repair', 'C'), phases=('1', '10'))
    tokenizer = make_tokenizer(schema, answer_format)
    automaton, model = AnswerAutomaton(schema, tokenizer, answer_format), random_model(len(tokenizer), seed=1)
    inputs = make_inputs(model, tokenizer, 4)
    expected = constrained_generate(model, automaton, inputs)
    for width in (0, 24): assert answers(model, automaton, inputs, width=width)[0] == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), before=st.integers(0, 6), after=st.integers(0, 6), width=st.integers(0, 40), images=st.integers(1, 5))
def test_padding_left_or_right_changes_nothing(model, automaton, seed, before, after, width, images):
    inputs = make_inputs(model, automaton.tokenizer, images, seed)
    expected, plain = answers(model, automaton, inputs, width=width)
    padded, session = answers(model, automaton, pad(inputs, before, after), width=width)
    assert padded == expected
    for row in range(images):
        pairs = list(same_nodes(plain, session, row))
        assert len(pairs) > .8 * len(plain.logits[row])
        for node, other in pairs: np.testing.assert_allclose(session.logits[row][other], plain.logits[row][node], atol=2e-3)


def test_prompts_of_different_length_in_one_batch(model, automaton):
    short, long = make_inputs(model, automaton.tokenizer, 1, question='answer en A?'), make_inputs(model, automaton.tokenizer, 1, 5, question='answer en Which of A, B?')
    missing = long['input_ids'].shape[1] - short['input_ids'].shape[1]
    alone = answers(model, automaton, short)[0] + answers(model, automaton, long)[0]
    for before, after in ((missing, 0), (0, missing)):
        both = {k: torch.cat([a, b]) for (k, a), b in zip(pad(short, before, after).items(), long.values())}
        assert answers(model, automaton, both)[0] == alone
    left = {k: torch.cat([a, b]) for (k, a), b in zip(pad(short, missing, 0).items(), long.values())}
    assert constrained_generate(model, automaton, left) == alone


@pytest.mark.parametrize('chunk', ['one by one', 'runs', 'in the prefill'])
def test_hidden_states_equal_one_pass_over_the_whole_sequence(model, automaton, chunk):
    inputs = make_inputs(model, automaton.tokenizer, 3)
    sentences = [automaton.tokens(a) for a in ({'A': '2', 'B': '10', 'C': '1'}, {'B': '1'}, {'A': '10', 'C': '10'})]
    session = TreeSession(model, automaton, inputs)
    start = len(session.intro)
    if chunk != 'in the prefill': session.run()
    nodes = [[0] for _ in sentences]
    for i in range(start, max(map(len, sentences)) - 1):
        for row, tokens in enumerate(sentences):
            if i < len(tokens) - 1: nodes[row].append(session.child(row, nodes[row][-1], tokens[i]))
        if chunk == 'one by one' or chunk == 'runs' and i % 4 == 0: session.run()
    session.run()
    for row, tokens in enumerate(sentences):
        expected = whole_sequence_hidden(model, inputs, row, tokens)
        torch.testing.assert_close(session.intro_hidden[row], expected[:start + 1], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(torch.stack([session.hidden[row][n] for n in nodes[row]]), expected[start:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('window', [8, 20])
def test_a_prompt_longer_than_the_sliding_window(automaton, window):
    "As at 896 px, where prompt and picture exceed Gemma 2's 4,096: sliding layers must lose sight of the beginning, full ones not"
    model = random_model(len(automaton.tokenizer), sliding_window=window)
    inputs = make_inputs(model, automaton.tokenizer, 6)
    assert inputs['input_ids'].shape[1] + 8 > window
    expected = constrained_generate(model, automaton, inputs)
    wide = random_model(len(automaton.tokenizer))
    assert {'sliding_attention', 'full_attention'} == set(model.config.text_config.layer_types)
    for width in (0, 8, 40): assert answers(model, automaton, inputs, width=width)[0] == expected
    _, narrow_session = answers(model, automaton, inputs)
    _, wide_session = answers(wide, automaton, inputs)
    assert abs(narrow_session.logits[0][0] - wide_session.logits[0][0]).max() > 1e-3      # the window matters
    tokens = automaton.tokens({'A': '2', 'C': '1'})
    session = TreeSession(model, automaton, inputs)
    node = 0
    for token in tokens[len(session.intro):-1]: node = session.child(2, node, token)
    session.run()
    torch.testing.assert_close(session.hidden[2][node], whole_sequence_hidden(model, inputs, 2, tokens)[-1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('attention,soft_capping', [('eager', 50.), ('eager', None), ('sdpa', None), ('flex_attention', 50.)])
def test_every_attention_that_can_be_asked_for(automaton, attention, soft_capping):
    torch._dynamo.reset()    # torch 2.13 cannot compile flex attention on a CPU for shapes that vary, so other tests' shapes must be forgotten
    size = 168 if attention == 'flex_attention' else 28     # flex is used from 128 tokens
    model = random_model(len(automaton.tokenizer), attention, size, soft_capping=soft_capping)
    plain = random_model(len(automaton.tokenizer), 'eager', size, soft_capping=soft_capping)
    inputs = make_inputs(model, automaton.tokenizer, 3)
    assert answers(model, automaton, pad(inputs, 2, 1))[0] == constrained_generate(plain, automaton, inputs)


def test_soft_capping_of_scores_and_logits_is_honoured(automaton):
    for text in (dict(soft_capping=1.), dict(final_logit_softcapping=2.), dict(final_logit_softcapping=None)):
        model = random_model(len(automaton.tokenizer), **text)
        inputs = make_inputs(model, automaton.tokenizer, 2)
        session = TreeSession(model, automaton, inputs)
        [first, _] = decode(session)
        truth = brute_force(model, automaton, inputs)
        assert first.log_probability == pytest.approx(truth[automaton.codes(first.tokens)][0], abs=1e-4)


def test_an_image_token_outside_the_vocabulary(automaton):
    "PaliGemma 2's own <image> is inside; other checkpoints' is not"
    model = random_model(len(automaton.tokenizer))
    inputs = make_inputs(model, automaton.tokenizer, 2)
    expected = answers(model, automaton, inputs)[0]
    outside = dict(inputs, input_ids=torch.where(inputs['input_ids'] == model.config.image_token_id, 99_999, inputs['input_ids']))
    model.config.image_token_id = 99_999
    assert answers(model, automaton, outside)[0] == expected


def test_an_unmerged_adapter_answers_as_the_merged_one(automaton):
    model = get_peft_model(random_model(len(automaton.tokenizer)), LoraConfig(r=4, target_modules=r'model\.language_model\..*\.(q_proj|down_proj)', init_lora_weights=False))
    model.eval()
    inputs = make_inputs(model, automaton.tokenizer, 6)
    unmerged = answers(model, automaton, inputs)[0]
    merged = model.merge_and_unload()
    assert answers(merged, automaton, inputs)[0] == unmerged == constrained_generate(merged, automaton, inputs)


@pytest.mark.parametrize('dtype, margin', [(torch.bfloat16, .5), (torch.float16, .1)])
def test_16_bits_agree_wherever_the_choice_is_not_a_near_tie(automaton, dtype, margin):
    "In 16 bits shapes change the last ones, so only decisions with a margin can be asked to agree"
    model = random_model(len(automaton.tokenizer), dtype=dtype)
    inputs = make_inputs(model, automaton.tokenizer, 24)
    expected = constrained_generate(model, automaton, inputs)
    compared = 0
    for width in (0, 32):
        found, session = answers(model, automaton, inputs, width=width)
        for row, (mine, theirs) in enumerate(zip(found, expected)):
            if mine == theirs: compared += 1; continue
            split = next(i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b)
            node = 0
            for token in mine[len(session.intro):split]: node = session.children[row][node, token]
            choices = session.log_probabilities(row, node)
            assert choices[mine[split]] - choices[theirs[split]] < margin, 'a clear decision differs'
    assert compared > 24


def test_every_answer_of_a_model_that_knows_nothing_is_valid(automaton):
    for seed in range(8):
        model = random_model(len(automaton.tokenizer), seed=seed)
        for tokens in answers(model, automaton, make_inputs(model, automaton.tokenizer, 4, seed))[0]:
            text = automaton.tokenizer.decode(tokens[:-1])
            assert SCHEMA.render(SCHEMA.parse(text)) == text and automaton.accepts(tokens)


def test_a_schema_too_large_to_list():
    schema = EventSchema(events=tuple(f'event {c}' for c in 'abcdefghijkl'), phases=tuple(f'phase {i}' for i in range(1, 9)))
    tokenizer = byte_level_tokenizer(schema, vocab_size=500)
    automaton, model = AnswerAutomaton(schema, tokenizer), random_model(len(tokenizer), seed=3)
    inputs = make_inputs(model, tokenizer, 4)
    assert answers(model, automaton, inputs)[0] == constrained_generate(model, automaton, inputs)


def test_an_enumerated_automaton(model):
    tokenizer = boundless_tokenizer(SCHEMA)
    automaton, model = AnswerAutomaton(SCHEMA, tokenizer), random_model(len(tokenizer))
    assert automaton.is_enumerated
    inputs = make_inputs(model, tokenizer, 4)
    assert answers(model, automaton, inputs)[0] == constrained_generate(model, automaton, inputs)
