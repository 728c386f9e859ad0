"""Passes of fixed shapes give what passes of fitting shapes give, compiled or not."""
import shutil

import numpy as np
import pytest
import torch
from decoding_models import brute_force, constrained_generate, make_inputs, pad, random_model, row_of
from hypothesis import given, settings, strategies as st

from paligemma_vqa.inference.greedy import decode
from paligemma_vqa.inference.compiled import FixedPasses, warm_up
from paligemma_vqa.inference.posterior import posterior
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.inference.trees import TreeSession

SCHEMA = EventSchema(events=('A', 'B', 'C'), phases=('1', '2', '10'))
needs_compiler = pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='there is no C++ compiler')


def in_batches(passes, automaton, inputs, **options):
    "Answers to all of `inputs`, as many at once as the passes take, and how many passes each batch took"
    found, forwards = [], []
    for start in range(0, len(inputs['input_ids']), passes.rows):
        session = TreeSession(None, automaton, {name: values[start:start + passes.rows] for name, values in inputs.items()}, passes)
        found += [d.tokens for d in decode(session, **options)]
        forwards.append(session.forwards)
    return found, forwards


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 4), first_slots=st.integers(0, 40), slots=st.integers(1, 40), later=st.integers(1, 3), seed=st.integers(0, 100),
       before=st.integers(0, 5), after=st.integers(0, 5), width=st.one_of(st.none(), st.integers(0, 20)))
def test_any_shape_answers_as_generate(model, automaton, rows, first_slots, slots, later, seed, before, after, width):
    "Whatever the slots, the room that has to grow, the padding, and a last batch that is not full"
    inputs = make_inputs(model, automaton.tokenizer, 5, seed)
    expected = constrained_generate(model, automaton, inputs)
    passes = FixedPasses(model, automaton.candidates, rows, first_slots, slots, later, compiled=False)
    assert in_batches(passes, automaton, pad(inputs, before, after), width=width)[0] == expected


def test_shapes_never_change(model, automaton):
    "Otherwise each batch would be compiled anew"
    shapes = {'trunk': set(), 'nodes': set()}
    passes = FixedPasses(model, automaton.candidates, 2, 6, 12, later=20, compiled=False)
    read_trunk, read_nodes = passes.reader.trunk, passes.reader.nodes
    def seen(kind, function):
        def call(tokens, positions, masks, *rest):
            shapes[kind].add((tokens.shape, positions.shape, *(mask.shape for mask in masks.values())))
            return function(tokens, positions, masks, *rest)
        return call
    passes.reader.trunk, passes.reader.nodes = seen('trunk', read_trunk), seen('nodes', read_nodes)
    for seed in range(4):
        inputs = make_inputs(model, automaton.tokenizer, 3, seed)
        expected = constrained_generate(model, automaton, inputs)
        assert in_batches(passes, automaton, inputs, drafts=[[expected[0]]] * 2)[0] == expected
        posterior(TreeSession(None, automaton, row_of(inputs, 0), passes), bound=0)
    assert len(shapes['trunk']) == len(shapes['nodes']) == 1
    [(tokens, *_)] = shapes['trunk']
    assert tokens[1] % 16 == 0 and tokens[1] >= passes.batch.trunk.shape[1] + 6


def test_a_right_draft_is_one_pass_and_a_wrong_one_does_no_harm(model, automaton):
    inputs = make_inputs(model, automaton.tokenizer, 6)
    expected = constrained_generate(model, automaton, inputs)
    passes = FixedPasses(model, automaton.candidates, 1, 40, 16, compiled=False)
    for row, tokens in enumerate(expected):
        for draft in (tokens, expected[row - 1]):
            session = TreeSession(None, automaton, row_of(inputs, row), passes)
            assert decode(session, drafts=[[draft]])[0].tokens == tokens
            if draft == tokens: assert session.forwards == 1


@pytest.mark.parametrize('slots', [(0, 1), (5, 9), (64, 64)])
def test_probabilities_equal_brute_force(model, automaton, slots):
    inputs = make_inputs(model, automaton.tokenizer, 3)
    passes = FixedPasses(model, automaton.candidates, 3, *slots, later=2, compiled=False)
    drafts = [[automaton.tokens(a) for a in SCHEMA.annotations()][::3]] * 3           # more than fit
    found = posterior(TreeSession(None, automaton, inputs, passes), bound=0, max_forwards=200, drafts=drafts, valid_mass=True)
    for row, one in enumerate(found):
        truth = brute_force(model, automaton, inputs, row)
        assert len(one.answers) == SCHEMA.size
        for codes, (_, log_probability) in zip(one.codes, one.answers): assert log_probability == pytest.approx(truth[codes][0], abs=2e-4)
        likely = [raw for valid, raw in truth.values() if valid >= np.log(.01)]
        assert np.log(one.valid_mass) == pytest.approx(np.logaddexp.reduce(likely), abs=1e-3)


@pytest.mark.parametrize('attention,size,text', [pytest.param('flex_attention', 168, {}, marks=pytest.mark.slow), ('sdpa', 28, dict(soft_capping=None)), ('eager', 28, dict(sliding_window=20))])
def test_other_attentions_and_windows(automaton, attention, size, text):
    "Flex attention on a static cache is wrong in silence when its mask follows the cache's counter; ours holds none"
    torch._dynamo.reset()    # torch 2.13 cannot compile flex attention on a CPU for shapes that vary, so other tests' shapes must be forgotten
    model = random_model(len(automaton.tokenizer), attention, size, **text)
    plain = random_model(len(automaton.tokenizer), 'eager', size, **text)
    inputs = make_inputs(model, automaton.tokenizer, 4)
    expected = constrained_generate(plain, automaton, inputs)
    passes = FixedPasses(model, automaton.candidates, 2, 8, 8, later=1, compiled=False)
    assert in_batches(passes, automaton, pad(inputs, 2, 1))[0] == expected
    assert in_batches(passes, automaton, inputs)[0] == expected      # another prompt length on the same passes


def test_cached_image_features(model, automaton):
    inputs = make_inputs(model, automaton.tokenizer, 3)
    with torch.no_grad(): features = model.get_image_features(inputs['pixel_values']).pooler_output
    passes = FixedPasses(model, automaton.candidates, 2, compiled=False)
    assert in_batches(passes, automaton, dict(input_ids=inputs['input_ids'], image_features=features))[0] == constrained_generate(model, automaton, inputs)


def test_an_older_session_and_a_batch_too_large_say_so(model, automaton):
    inputs = make_inputs(model, automaton.tokenizer, 3)
    passes = FixedPasses(model, automaton.candidates, 2, compiled=False)
    older = TreeSession(None, automaton, row_of(inputs, 0), passes)
    TreeSession(None, automaton, row_of(inputs, 1), passes)
    with pytest.raises(RuntimeError, match='another session'): older.run()
    with pytest.raises(VQAError, match='3 pictures for passes over 2'): TreeSession(None, automaton, inputs, passes)


@pytest.mark.slow
@needs_compiler
def test_compiled_on_this_processor(automaton):
    model = random_model(len(automaton.tokenizer), num_hidden_layers=2)
    inputs = make_inputs(model, automaton.tokenizer, 7)
    expected = constrained_generate(model, automaton, inputs)
    passes = FixedPasses(model, automaton.candidates, 2, 6, 12)
    warm_up(passes, automaton, row_of(inputs, 0))
    assert in_batches(passes, automaton, inputs)[0] == expected
    found = posterior(TreeSession(None, automaton, {name: values[:2] for name, values in inputs.items()}, passes), bound=1e-3)
    for row, one in enumerate(found):
        truth = brute_force(model, automaton, inputs, row)
        for codes, (_, log_probability) in zip(one.codes, one.answers): assert log_probability == pytest.approx(truth[codes][0], abs=5e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no NVIDIA GPU')
@pytest.mark.parametrize('attention', ['eager', 'flex_attention'])
def test_compiled_on_a_gpu(automaton, attention):
    model = random_model(len(automaton.tokenizer), attention, 168).cuda()
    inputs = {name: values.cuda() for name, values in make_inputs(model, automaton.tokenizer, 7).items()}
    expected = constrained_generate(model, automaton, inputs)
    for rows in (1, 4):
        passes = FixedPasses(model, automaton.candidates, rows, later=1)
        warm_up(passes, automaton, row_of(inputs, 0))
        for _ in range(3): assert in_batches(passes, automaton, inputs)[0] == expected


@pytest.mark.slow
def test_without_a_compiler_there_is_one_clear_sentence(model, automaton):
    torch._dynamo.reset()
    with torch._inductor.config.patch({'cpp.cxx': (None, '/nonexistent/g++')}), torch._inductor.utils.fresh_cache():
        with pytest.raises(VQAError, match='cannot be compiled here .* Leave compiling off'):
            warm_up(FixedPasses(model, automaton.candidates, 1, 4, 4), automaton, make_inputs(model, automaton.tokenizer, 1))
