"""Orders: each sample once, a function of seed, epoch and ID alone, the same on every machine; mixing by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manifests.order import draw_fractions, mixed_order, sample_keys, shuffled


def ids(count: int, prefix: str = "mug/src-") -> list[str]:
    return [f"{prefix}{number:012x}" for number in range(count)]


def test_order_is_the_same_on_every_machine():
    """Written down once: these are whole-number operations on sha256, no library's generator."""
    keys = sample_keys(ids(8))
    assert [hex(key) for key in keys[:2]] == ["0xc526936c1f62ed17", "0x230414b2af4c306a"]
    assert shuffled(keys, 0, 0).tolist() == [6, 1, 3, 2, 4, 0, 7, 5]
    assert shuffled(keys, 7, 3).tolist() == [2, 6, 1, 0, 4, 7, 3, 5]
    assert [round(float(x), 12) for x in draw_fractions(keys, 0, 0, 3)[:2]] == [0.032550533183, 0.110399904044]


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own():
    keys = sample_keys(ids(500))
    orders = [tuple(shuffled(keys, seed, epoch).tolist()) for seed in range(3) for epoch in range(4)]
    assert len(set(orders)) == 12
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(500))}


def test_no_place_is_favoured():
    """Chi-squared of where 20 samples land in 4,000 epochs: 361 degrees of freedom, 5 standard deviations."""
    keys = sample_keys(ids(20))
    counts = np.zeros((20, 20))
    for epoch in range(4000):
        counts[np.arange(20), shuffled(keys, 1, epoch)] += 1
    chi_squared = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi_squared - 361) < 5 * math.sqrt(2 * 361)


def test_order_does_not_depend_on_who_else_is_there():
    names = ids(300)
    whole = [names[index] for index in shuffled(sample_keys(names), 5, 2)]
    fewer = names[:100] + names[130:]
    kept = set(fewer)
    assert [fewer[index] for index in shuffled(sample_keys(fewer), 5, 2)] == [n for n in whole if n in kept]


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5, 0.9])
def test_share_of_regular_samples_is_the_probability_within_three_sigma(probability):
    sources, regular = sample_keys(ids(4000)), sample_keys(ids(50, "class-mug/reg-"))
    shares = []
    for seed in range(5):
        is_regular, index = mixed_order(sources, regular, seed, 0, probability)
        assert sorted(index[~is_regular].tolist()) == list(range(4000))
        shares.append(is_regular.mean())
        # places until 4,000 sources were seen: negative binomial
        sigma = math.sqrt(probability * (1 - probability) / len(index))
        assert abs(is_regular.mean() - probability) < 3 * sigma
        # neighbours are independent: a regular sample follows a regular one as often as any
        after = is_regular[1:][is_regular[:-1]]
        assert abs(after.mean() - probability) < 4 * math.sqrt(probability * (1 - probability) / len(after))
    assert len(set(shares)) > 1


def test_no_regular_sample_comes_again_before_all_have_come():
    is_regular, index = mixed_order(sample_keys(ids(200)), sample_keys(ids(30, "reg-")), 3, 1, 0.5)
    drawn = index[is_regular].tolist()
    assert len(drawn) > 90
    rounds = [drawn[start : start + 30] for start in range(0, len(drawn), 30)]
    assert all(len(set(part)) == len(part) for part in rounds)
    assert len({tuple(part) for part in rounds}) == len(rounds)


def test_probability_nought_is_photographs_alone():
    is_regular, index = mixed_order(sample_keys(ids(50)), sample_keys(ids(5, "reg-")), 0, 0, 0.0)
    assert not is_regular.any()
    assert index.tolist() == shuffled(sample_keys(ids(50)), 0, 0).tolist()


def test_draws_are_uniform():
    numbers = draw_fractions(sample_keys(ids(20000)), 0, 0, 3)
    assert 0 <= numbers.min() < numbers.max() < 1
    counts = np.histogram(numbers, 50, (0, 1))[0]
    assert abs(((counts - 400) ** 2 / 400).sum() - 49) < 5 * math.sqrt(98)
    other = draw_fractions(sample_keys(ids(20000)), 0, 0, 4)
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 4 / math.sqrt(20000)
