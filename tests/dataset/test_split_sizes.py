"How well a split keeps the wanted sizes while it spreads the labels"
from collections import Counter

import numpy as np

from paligemma_vqa.dataset.balance import ALL_PICTURES
from paligemma_vqa.dataset.splits import assign_groups

RATIOS = dict(train=.7, validation=.15, test=.15)


def videos(seed) -> dict[str, Counter]:
    "Twelve videos of very different lengths, each with some of five labels"
    random, counts = np.random.default_rng(seed), {}
    for number in range(12):
        counts[f'v{number}'] = labels = Counter({ALL_PICTURES: int(random.integers(5, 120))})
        for label in zip('ABCDE', '12345'):
            if random.random() < .6: labels[label] = int(random.integers(1, labels[ALL_PICTURES] + 1))
    return counts


def farthest(counts) -> float:
    "The largest difference between a side's share of the pictures and the wanted one"
    sides, total = assign_groups(counts, RATIOS), sum(labels[ALL_PICTURES] for labels in counts.values())
    return max(abs(sum(counts[group][ALL_PICTURES] for group in counts if sides[group] == side) / total - share) for side, share in RATIOS.items())


def test_the_sizes_of_the_sides_count_as_much_as_all_labels_together():
    assert np.mean([farthest(videos(seed)) for seed in range(100)]) < 0.045   # 0.035; if a size counted as one label it were 0.059
