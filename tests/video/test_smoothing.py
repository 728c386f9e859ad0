"Properties of smoothing that hold for every input"
import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.video.smoothing import METHODS, Dynamics, FixedLag, median_filter, smooth, to_segments, viterbi

SCHEMA = EventSchema(events=('A', 'B'), phases=('1', '2', '3'))
DYNAMICS = Dynamics.by_hand(SCHEMA)
gaps = st.lists(st.floats(0.01, 5), min_size=1, max_size=40)
seeds = st.integers(0, 10_000)


def made(gaps, seed):
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.4), size=(len(gaps), 2)), np.cumsum(gaps)


@settings(deadline=None, max_examples=40)
@given(gaps, seeds)
def test_no_step_back_and_every_method_gives_codes(gaps, seed):
    probabilities, times = made(gaps, seed)
    for method in METHODS:
        codes = smooth(probabilities, times, method, DYNAMICS)
        assert codes.shape == (len(gaps), 2) and codes.min() >= 0 and codes.max() <= 3
    codes = viterbi(probabilities, times, DYNAMICS)
    # Between two frames an event may end and begin again, but hardly: at usual rates phases only go on
    if max(gaps) < 0.5:
        for before, after in itertools.pairwise(codes):
            for b, a in zip(before, after): assert a == 0 or a >= b


@settings(deadline=None, max_examples=40)
@given(gaps, seeds)
def test_segments_cover_what_the_codes_say(gaps, seed):
    probabilities, times = made(gaps, seed)
    codes = probabilities.argmax(-1)
    segments = to_segments(codes, times, SCHEMA, probabilities=probabilities, hold_s=1e9)
    for i, time_s in enumerate(times):
        present = {s.event: s.phase for s in segments if s.start_s <= time_s < s.end_s}
        if i or len(times) > 1: assert present == SCHEMA.from_codes(codes[i])
    for s in segments: assert s.start_s <= s.end_s and 0 <= s.confidence <= 1
    for event in SCHEMA.events:
        own = [s for s in segments if s.event == event]
        assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(own))


@settings(deadline=None, max_examples=30)
@given(gaps, seeds, st.floats(0, 20))
def test_fixed_lag_says_each_frame_once_in_order(gaps, seed, lag_s):
    probabilities, times = made(gaps, seed)
    smoother, said = FixedLag(DYNAMICS, lag_s), []
    for time_s, row in zip(times, probabilities):
        released = smoother.step(time_s, row)
        assert all(item.time_s <= time_s - lag_s + 1e-6 for item in released)
        said += released
    said += smoother.flush()
    assert [item.time_s for item in said] == list(times)
    assert np.allclose([item.probabilities.sum(-1) for item in said], 1)


def test_an_endless_lag_sees_what_viterbi_sees_when_it_is_clear():
    codes = np.repeat([[0, 0], [1, 0], [2, 1], [3, 2], [0, 3], [0, 0]], 10, axis=0)
    times, probabilities = np.arange(60) / 5, 0.03 + 0.88 * np.eye(4)[codes]
    smoother = FixedLag(DYNAMICS, 999)
    said = [item for time_s, row in zip(times, probabilities) for item in smoother.step(time_s, row)] + smoother.flush()
    assert np.array_equal([item.codes for item in said], codes)
    assert np.array_equal(viterbi(probabilities, times, DYNAMICS), codes)


def test_a_blink_is_overruled_and_a_frame_without_an_answer_is_bridged():
    codes = np.repeat([[0, 0], [1, 0], [0, 0]], 10, axis=0)
    probabilities, times = 0.02 + 0.92 * np.eye(4)[codes], np.arange(30) / 5
    probabilities[15, 0] = [0.98, 0.01, 0.005, 0.005]   # for one frame the event is gone, with certainty
    probabilities[12] = np.nan                          # no answer could be read
    assert np.array_equal(viterbi(probabilities, times, DYNAMICS), codes)


def test_the_result_does_not_depend_on_how_densely_one_looks():
    codes = np.repeat([[0, 0], [1, 0], [2, 0], [0, 0]], 50, axis=0)
    probabilities, times = 0.02 + 0.92 * np.eye(4)[codes], np.arange(200) / 25
    dense = to_segments(viterbi(probabilities, times, DYNAMICS), times, SCHEMA)
    sparse = to_segments(viterbi(probabilities[::5], times[::5], DYNAMICS), times[::5], SCHEMA)
    for a, b in zip(dense, sparse, strict=True):
        assert (a.event, a.phase) == (b.event, b.phase) and abs(a.start_s - b.start_s) < 0.2 and abs(a.end_s - b.end_s) < 0.2


@settings(deadline=None, max_examples=30)
@given(gaps, seeds)
def test_median_of_constant_codes_is_the_same_and_its_window_is_centred(gaps, seed):
    _, times = made(gaps, seed)
    constant = np.full((len(gaps), 2), 2)
    assert np.array_equal(median_filter(constant, times, 1.0), constant)
    assert np.array_equal(median_filter(np.flip(constant), times, 0), constant)


def test_wrong_input_is_said_plainly():
    p = np.full((2, 2, 4), 0.25)
    for call, message in ((lambda: smooth(p, [0], 'raw'), '2 answers and 1 times'), (lambda: smooth(p, [0, 1], 'magic'), 'no smoothing method'),
                          (lambda: smooth(p, [0, 1]), 'needs dynamics'), (lambda: viterbi(p, [1, 0], DYNAMICS), 'go back')):
        with pytest.raises(VQAError, match=message): call()


def test_fitting_recovers_the_rates_it_was_made_from():
    random, step_s = np.random.default_rng(3), 0.1
    truth = Dynamics.by_hand(SCHEMA, phase_s=1.5, pause_s=6)
    matrix, codes = truth.transition(step_s), np.zeros((20_000, 2), dtype=int)
    for i in range(1, len(codes)):
        for event in range(2): codes[i, event] = random.choice(4, p=matrix[event, codes[i - 1, event]] / matrix[event, codes[i - 1, event]].sum())
    fitted = Dynamics.fit(SCHEMA, [codes], [np.arange(len(codes)) * step_s])
    assert np.allclose(1 / -fitted.rates[:, range(4), range(4)], [[6, 1.5, 1.5, 1.5]] * 2, rtol=0.25)


def test_the_prior_is_taken_out_of_what_a_frame_says():
    "An answer that says no more than how common each state is is no evidence; one that says more for a state is evidence for it"
    prior = np.array([[.7, .2, .1]])
    dynamics = Dynamics(np.zeros((1, 3, 3)), np.full((1, 3), 1 / 3), prior, prior_weight=1, mistake=1e-9)
    said_nothing = dynamics.evidence(prior, 1)
    np.testing.assert_allclose(said_nothing - said_nothing[:, :1], 0, atol=1e-6)
    rare = dynamics.evidence(np.array([[.5, .25, .25]]), 1)[0]
    assert rare[2] > rare[1] > rare[0]


def test_the_prior_is_taken_out_of_what_was_measured_too():
    prior = np.array([[.7, .2, .1]])
    right, wrong = np.eye(3)[None], np.roll(np.eye(3), 1, 1)[None]
    def evidence(confusion, said, temperature=1.): return Dynamics(np.zeros((1, 3, 3)), np.full((1, 3), 1 / 3), prior, temperatures=np.array([temperature]), confusion=confusion).evidence(np.array([said]), 1)[0]
    flat = evidence(right, [.7, .2, .1])
    np.testing.assert_allclose(flat, flat[0], atol=1e-6)
    assert evidence(right, [.5, .25, .25]).argmax() == 2           # half as much again for a rare state is evidence for it
    assert evidence(wrong, [.02, .96, .02]).argmax() == 0          # it says the next state: what it says is taken for what it means by it
    assert np.ptp(evidence(right, [.9, .05, .05], 4.)) < np.ptp(evidence(right, [.9, .05, .05]))     # a hot model is believed less


def test_a_segment_ends_with_the_video_and_not_with_the_last_frame():
    [segment] = to_segments([[1]] * 3, [0, 1, 2], EventSchema(events=('A',), phases=('1',)), end_s=3.4)
    assert segment.end_s == 3.4
    [far] = to_segments([[1]] * 3, [0, 1, 2], EventSchema(events=('A',), phases=('1',)), end_s=60)       # nothing is known of that minute
    assert far.end_s == 3
    [near] = to_segments([[1]] * 3, [0, 1, 2], EventSchema(events=('A',), phases=('1',)), end_s=1.5)
    assert near.end_s == 2


@pytest.mark.parametrize('right', [.6, 1.])
def test_what_is_chosen_on_validation_is_never_worse_than_frames_on_others(right):
    from paligemma_vqa.video.belief import choose_smoothing, f1_by_video, simulate_tracks, ways_to_smooth
    schema = EventSchema(events=('A', 'B'), phases=('1', '2', '3'))
    training, validation, test = (simulate_tracks(schema, 6, phase_s=1, right=right, seconds=20, seed=seed) for seed in (1, 2, 3))
    dynamics = Dynamics.fit(schema, [t.codes for t in training], [t.times_s for t in training])
    chosen = choose_smoothing(schema, dynamics, validation)
    raw = ways_to_smooth(schema, dynamics)[0]
    (hits, total), (raw_hits, raw_total) = (f1_by_video(schema, way, test).sum(0) for way in (chosen, raw))
    assert hits / total >= raw_hits / raw_total - .03 and chosen.scores and chosen.reason
    assert (chosen.name == 'frame by frame') == (right == 1)
