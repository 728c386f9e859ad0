"""Answer probabilities equal brute force over all answers, and the bounds hold wherever the search is stopped."""
import numpy as np
import pytest
from decoding_models import (boundless_tokenizer, brute_force, byte_level_tokenizer, character_tokenizer, constrained_generate, make_inputs, pad,
                             random_model, row_of)
from hypothesis import given, settings, strategies as st

from paligemma_vqa.inference.automaton import AnswerAutomaton
from paligemma_vqa.inference.greedy import decode
from paligemma_vqa.inference.posterior import posterior
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.inference.trees import TreeSession

SCHEMA = EventSchema(events=('A', 'B', 'C'), phases=('1', '10'))


def marginals(truth, schema):
    result = np.zeros((len(schema.events), len(schema.phases) + 1))
    for codes, (lp, _) in truth.items(): result[range(len(codes)), codes] += np.exp(lp)
    return result


@pytest.mark.parametrize('make_tokenizer', [byte_level_tokenizer, character_tokenizer, boundless_tokenizer])
@pytest.mark.parametrize('answer_format', ['sentence', 'list', 'json'])
def test_equal_to_brute_force(make_tokenizer, answer_format):
    tokenizer = make_tokenizer(SCHEMA, answer_format)
    automaton, model = AnswerAutomaton(SCHEMA, tokenizer, answer_format), random_model(len(tokenizer), seed=2)
    inputs = make_inputs(model, tokenizer, 2)
    for row, found in enumerate(posterior(TreeSession(model, automaton, inputs), bound=0, valid_mass=True)):
        truth = brute_force(model, automaton, inputs, row)
        assert {automaton.codes(tokens) for tokens, _ in found.answers} == set(truth) == set(found.codes)
        for codes, (_, lp) in zip(found.codes, found.answers): assert lp == pytest.approx(truth[codes][0], abs=2e-4)
        np.testing.assert_allclose(found.probabilities, marginals(truth, SCHEMA), atol=1e-5)
        np.testing.assert_allclose(found.lower.sum(-1), 1, atol=1e-9)
        assert found.unexplained == 0
        assert np.log(found.valid_mass) == pytest.approx(np.logaddexp.reduce([raw for lp, raw in truth.values() if lp >= np.log(.01)]), abs=1e-3)
        p = np.exp([lp for lp, _ in truth.values()])
        assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 500), bound=st.sampled_from([.3, .05, 1e-3]), max_forwards=st.integers(1, 6), max_tokens=st.sampled_from([4, 40, 256]))
def test_bounds_hold_wherever_the_search_stops(model, automaton, seed, bound, max_forwards, max_tokens):
    inputs = make_inputs(model, automaton.tokenizer, 1, seed)
    truth = marginals(brute_force(model, automaton, inputs), SCHEMA)
    session = TreeSession(model, automaton, inputs)
    [found] = posterior(session, bound, max_forwards, max_tokens)
    assert found.unexplained <= bound or session.forwards >= max_forwards
    assert (found.lower <= truth + 1e-5).all() and (truth <= found.upper + 1e-5).all()
    assert np.exp([lp for _, lp in found.answers]).sum() + found.unexplained == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, atol=1e-9)
    assert (found.lower <= found.probabilities + 1e-9).all() and (found.probabilities <= found.upper + 1e-9).all()


def test_a_batch_gives_what_its_pictures_give_alone_and_padding_changes_nothing(model, automaton):
    inputs = make_inputs(model, automaton.tokenizer, 5)
    alone = [posterior(TreeSession(model, automaton, row_of(inputs, row)), 1e-3)[0] for row in range(5)]
    for batch in (inputs, pad(inputs, 3, 0), pad(inputs, 0, 4)):
        for one, other in zip(posterior(TreeSession(model, automaton, batch), 1e-3), alone):
            assert one.greedy.tokens == other.greedy.tokens
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def test_the_greedy_answer_is_that_of_generate(model, automaton):
    inputs = make_inputs(model, automaton.tokenizer, 6, seed=9)
    expected = constrained_generate(model, automaton, inputs)
    for bound, max_forwards in ((1e-3, 30), (.5, 30), (1e-3, 1)):
        found = posterior(TreeSession(model, automaton, inputs), bound, max_forwards)
        assert [one.greedy.tokens for one in found] == expected
    for one, decoded in zip(found, decode(TreeSession(model, automaton, inputs))):
        assert one.greedy.log_probability == pytest.approx(decoded.log_probability, abs=1e-5)


def test_a_schema_too_large_to_list_reports_what_it_left_out():
    schema = EventSchema(events=tuple(f'event {c}' for c in 'abcdefghijkl'), phases=tuple(f'phase {i}' for i in range(1, 9)))
    tokenizer = byte_level_tokenizer(schema, vocab_size=500)
    automaton, model = AnswerAutomaton(schema, tokenizer), random_model(len(tokenizer), seed=3)
    session = TreeSession(model, automaton, make_inputs(model, tokenizer, 1))
    [found] = posterior(session, bound=1e-3, max_forwards=4)
    assert session.forwards <= 4 + 12      # the greedy answer may need some more
    assert found.probabilities.shape == (12, 9) and 0 <= found.unexplained <= 1
    assert np.exp([lp for _, lp in found.answers]).sum() + found.unexplained == pytest.approx(1, abs=1e-9)


def test_what_is_left_is_read_from_the_right_event(model, automaton):
    "The rest is spread as the unfinished answers say: nearer to the truth than the same numbers given to another event"
    off, left = {shift: 0. for shift in range(3)}, []
    for seed in range(6):
        inputs = make_inputs(model, automaton.tokenizer, 1, seed)
        truth = marginals(brute_force(model, automaton, inputs), SCHEMA)
        [found] = posterior(TreeSession(model, automaton, inputs), bound=.2, max_forwards=1, max_tokens=4)
        left.append(found.unexplained)
        for shift in off: off[shift] += np.abs(found.lower + np.roll(found.probabilities - found.lower, shift, 0) - truth).sum()
    assert np.mean(left) > .05 and off[0] < .8 * min(off[1], off[2])
