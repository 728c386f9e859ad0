"Properties of smoothing that hold for every input"
import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from paligemma_vqa.schema import EventSchema
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


def test_fitting_recovers_the_rates_it_was_made_from():
    random, step_s = np.random.default_rng(3), 0.1
    truth = Dynamics.by_hand(SCHEMA, phase_s=1.5, pause_s=6)
    matrix, codes = truth.transition(step_s), np.zeros((20_000, 2), dtype=int)
    for i in range(1, len(codes)):
        for event in range(2): codes[i, event] = random.choice(4, p=matrix[event, codes[i - 1, event]] / matrix[event, codes[i - 1, event]].sum())
    fitted = Dynamics.fit(SCHEMA, [codes], [np.arange(len(codes)) * step_s])
    assert np.allclose(1 / -fitted.rates[:, range(4), range(4)], [[6, 1.5, 1.5, 1.5]] * 2, rtol=0.25)


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
