"""Metrics against scikit-learn on anything, and the mistakes that published evaluations have made."""
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, f1_score

from paligemma_vqa.evaluation.metrics import (Counts, bootstrap, quick_scores,
                                              resampled, simulate_frames)
from paligemma_vqa.evaluation.resampling import draws, interval, mean_interval, videos_needed
from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.command.report import compare, evaluate, truth_of
from paligemma_vqa.scenes.videos import DEMO_SCHEMA, make_dataset
from paligemma_vqa.evaluation.segments import relaxed_accuracy
from paligemma_vqa.schema import VQAError
from paligemma_vqa.dataset.splits import read_splits

codes = st.integers(1, 30).flatmap(lambda n: st.tuples(*[arrays(int, (n, 5), elements=st.integers(0, 4))] * 2))


@given(codes)
@settings(max_examples=100, deadline=None)
def test_scikit_learn_agrees_wherever_it_defines_the_metric(pair):
    truth, predicted = pair
    found = quick_scores(truth, predicted)
    assume((truth > 0).any() and (predicted > 0).any())
    assert found['event_f1'] == pytest.approx(f1_score(truth > 0, predicted > 0, average='micro', zero_division=0), abs=1e-6)
    assert found['exact_match'] == pytest.approx(np.mean([a == b for a, b in zip(truth.tolist(), predicted.tolist())]), abs=1e-6)
    both = (truth > 0) & (predicted > 0)
    if both.any(): assert found['phase_accuracy'] == pytest.approx(accuracy_score(truth[both], predicted[both]), abs=1e-6)


@given(codes, st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_frames_and_the_names_of_videos_change_nothing(pair, random):
    truth, predicted = pair
    order = list(range(len(truth)))
    random.shuffle(order)
    assert quick_scores(truth, predicted) == quick_scores(truth[order], predicted[order])




def test_relaxed_boundaries_do_not_reach_the_start_of_the_video():
    truth, predicted = np.repeat([0, 1, 0], [50, 20, 30]), np.repeat([0, 1, 0], [50, 20, 30])
    predicted[:5] = 1   # far from every change; an end mask that indexes the array's start would forgive it
    assert relaxed_accuracy(truth, predicted, np.arange(100.), 10) == pytest.approx(0.95)




def test_a_ninety_five_percent_interval_leaves_two_and_a_half_on_either_side():
    "One of 90 % is narrower, and was once called 95 %"
    counts, seed = Counts.of(simulate_frames(videos=9)), 7
    drawn = np.random.default_rng(seed).multinomial(9, np.full(9, 1 / 9), size=2000)
    for name in ('event_f1', 'exact_match'):
        values = resampled(counts, drawn)[name]
        low, high = bootstrap(counts, 2000, seed=seed)[name]
        assert np.mean(values < low) == pytest.approx(.025, abs=.005) and np.mean(values > high) == pytest.approx(.025, abs=.005)
        inner = bootstrap(counts, 2000, .9, seed)[name]
        assert low < inner[0] < inner[1] < high
    scores = np.linspace(0, 1, 10_001)
    assert interval(scores) == (.025, .975) and mean_interval([0., 1.]) == (0, 1)
    worse, better = simulate_frames(seed=3), simulate_frames(seed=3, noise=1.2)
    one = compare(worse, better)['metrics']['event_f1']
    shared = draws(6)
    difference = resampled(Counts.of(better), shared)['event_f1'] - resampled(Counts.of(worse), shared)['event_f1']
    assert (one['low'], one['high']) == pytest.approx(tuple(np.percentile(difference, [2.5, 97.5])), abs=1e-6)   # drawn in pairs


@pytest.mark.parametrize('videos', [4, 12, 40])
def test_as_many_videos_as_are_asked_for_make_the_interval_that_narrow(videos):
    def half(videos):
        low, high = bootstrap(Counts.of(simulate_frames(videos=videos, frames=40, seed=videos)))['event_f1']
        return (high - low) / 2
    counts = Counts.of(simulate_frames(videos=videos, frames=40, seed=videos))
    wanted = half(videos) / 2
    needed = videos_needed(videos, bootstrap(counts)['event_f1'], wanted)
    assert needed == pytest.approx(4 * videos, abs=1)
    assert .4 * wanted < half(needed) < 2 * wanted


def test_two_runs_on_different_frames_are_not_compared():
    with pytest.raises(VQAError, match='not on the same frames'): compare(simulate_frames(), simulate_frames()[:10])


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('evaluation') / 'data'
    make_dataset(folder, videos=9, frame_every=30)
    return folder


@pytest.fixture(scope='module')
def base(): return Predictor.from_base('tiny', DEMO_SCHEMA)


def test_a_whole_report(dataset, base, tmp_path):
    found = evaluate(base, dataset, against=base, with_robustness=True, output_dir=tmp_path)
    assert json.loads((tmp_path / 'report.json').read_text())['overall'] == found['overall']
    assert set(found['baselines']) >= {'best constant answer', 'clock only', 'question only', 'shuffled pictures', 'linear probe on SigLIP'}
    assert found['over_time']['raw']['look_ahead'] == 'none' and found['over_time']['smoothed']['look_ahead'] in ('none', 'whole video')
    assert found['over_time']['smoothed']['reason']
    assert found['temperature']['fitted_on'] == 'validation'
    assert found['comparison']['metrics']['event_f1']['difference'] == 0 and not found['comparison']['broken']
    assert len(found['robustness']['smoke']) == 3
    page = (tmp_path / 'report.html').read_text()
    assert page.count('data:image') > 5 and '://' not in page


def test_answers_are_generated_not_teacher_forced(dataset, base):
    "The base has never seen this question: forced along the true answer it would look good, asked it does not"
    assert evaluate(base, dataset, baselines=False)['overall']['exact_match']['value'] < 0.5


def test_test_videos_do_not_choose_anything(dataset):
    sides = [set(truth_of(dataset, split).videos) for split in ('train', 'validation', 'test')]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_a_leaky_split_is_detected_and_reported(dataset, base, tmp_path):
    import shutil
    leaky = tmp_path / 'leaky'
    shutil.copytree(dataset, leaky)
    splits, records = read_splits(leaky), read_records(leaky)
    train = next(record for record in records if splits.side(record) == 'train')
    test = next(record for record in records if splits.side(record) == 'test')
    (leaky / test.image).write_bytes((leaky / train.image).read_bytes())   # a training picture among the test pictures
    found = evaluate(base, leaky, baselines=False, output_dir=tmp_path / 'out')
    assert not found['leaks']['is_clean'] and found['leaks']['exact']
    assert 'The split leaks' in (tmp_path / 'out' / 'table.md').read_text()


def test_there_is_no_such_split(dataset, base):
    with pytest.raises(VQAError, match="no split 'holdout'"): evaluate(base, dataset, split='holdout')
