"""The matched null on made-up activations of which the truth is known, and what is matched."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from features.entities.entities import Entity
from features.labels.made_up import recombined_groups
from unlearn.auditing.evaluations.group_statistics import CENTRE, KNOWN, PARTNER, fold_aurocs
from unlearn.auditing.evaluations.matched_null import Reading, compared, how_well
from unlearn.auditing.evaluations.matching import Matching, length_strata, piece_ranks
from unlearn.auditing.evaluations.two_sample import relabelled

WIDTH, N_TARGETS, N_OTHERS = 6, 8, 40


def made(seed: int, *, shift: float = 0.0, alike: bool = False) -> tuple[dict[str, Reading], Matching]:
    """Return unknown entities at one place, the first ones as targets.

    Args:
        seed: Of the draws.
        shift: How far the targets are moved from unknown (0) to known (1).
        alike: Lay every target on an unknown partner.
    """
    generator = np.random.default_rng(seed)
    entities = [Entity(f"n{i}", ("city", "person")[i % 2]) for i in range(N_TARGETS + N_OTHERS)]
    points = generator.normal(size=(len(entities), WIDTH))
    partners = generator.normal(size=(30, WIDTH))
    if alike:
        points[:N_TARGETS] = partners[:N_TARGETS] + 0.01 * points[:N_TARGETS]
    points[:N_TARGETS, 0] += 4.0 * shift  # known entities lie four standard deviations from unknown ones
    nearest = np.linalg.norm(points[:, None] - partners[None], axis=-1).min(1)
    keys = [e.key for e in entities]
    reading = Reading(
        dict(zip(keys, points, strict=True)),
        dict(zip(keys, (points[:, 0] / 4.0).tolist(), strict=True)),
        dict(zip(keys, nearest.tolist(), strict=True)),
        is_told=True,
    )
    is_target = np.arange(len(entities)) < N_TARGETS
    strata = np.arange(len(entities)) % 2
    labels = relabelled(is_target, strata, 99, seed)
    return {"layers.0": reading}, Matching("any history", entities, labels, strata, np.ones((len(entities), 1)))


def test_never_known_groups_have_any_p():
    """Uniform: the mean of 30 is 0.5 with a standard error of 0.053."""
    found = [compared(*made(seed), seed).p for seed in range(30)]
    assert 0.34 < np.mean(found) < 0.66
    assert sum(p < 0.05 for p in found) <= 5


def test_a_history_of_few_groups_does_not_fit_because_its_p_cannot_be_small():
    readings, natural = made(0, shift=0.6)
    few = replace(natural, history="few", labels=natural.labels[:20])
    far = {
        name: replace(r, known={k: v * (50 if i < N_TARGETS else 1) for i, (k, v) in enumerate(r.known.items())})
        for name, r in readings.items()
    }
    p_natural, p_few = (compared(readings, m, 0).p for m in (natural, few))
    assert p_natural < p_few <= 0.05, "both at the least that their groups allow"
    assert how_well(compared(far, few, 0)) < how_well(compared(readings, natural, 0))


@pytest.mark.slow
def test_never_known_groups_fall_outside_as_often_as_the_level_says():
    """200 draws at 5 %: 10 expected, 4 to 18 with 98 %."""
    assert 4 <= sum(compared(*made(seed), seed).p <= 0.05 for seed in range(1000, 1200)) <= 18


def test_a_planted_remainder_is_found_and_its_size_told():
    found = [compared(*made(seed, shift=0.6), seed) for seed in range(10)]
    assert all(f.p <= 0.05 for f in found)
    place = found[0].places["layers.0"]
    assert place.remaining.low < 0.6 < place.remaining.high and place.remaining.low > 0
    assert place.statistics[KNOWN].z > 3
    assert found[0].towards_known(0.05) == {"layers.0": place}


def test_targets_laid_on_their_partners_are_too_alike():
    """Only this tells: each lies nearer to an unknown name than names lie among themselves."""
    found = [compared(*made(seed, alike=True), seed) for seed in range(10)]
    assert sum(f.p <= 0.05 for f in found) >= 9
    assert all(f.places["layers.0"].statistics[PARTNER].z < -3 for f in found)
    assert not found[0].towards_known(0.05)


def test_a_group_chosen_to_be_average_is_too_central():
    readings, matching = made(3)
    means = readings["layers.0"].means
    targets = [e.key for e in matching.entities[:N_TARGETS]]
    for kind in ("city", "person"):
        own = [k for k in targets if k.startswith(kind)]
        middle = np.mean([v for k, v in means.items() if k.startswith(kind) and k not in own], axis=0)
        off = np.mean([means[k] for k in own], axis=0) - middle
        for key in own:
            means[key] = means[key] - off
    statistic = compared(readings, matching, 3).places["layers.0"].statistics[CENTRE]
    assert statistic.value < statistic.low and statistic.z < -3


@pytest.mark.slow
def test_what_is_detectable_is_found_in_four_of_five_groups():
    """Shifted by exactly what is said to be detectable, the known direction alone is outside in about 80 % of draws."""
    hits, n = 0, 60
    for seed in range(n):
        share = compared(*made(seed), seed).places["layers.0"].detectable
        hits += compared(*made(seed, shift=share), seed).places["layers.0"].statistics[KNOWN].p <= 0.06
    assert 0.65 <= hits / n <= 0.97


def test_the_classifier_ranks_within_folds():
    points = np.array([[0.0], [0.1], [5.0], [5.1]] * 3)
    label = np.tile([0.0, 0.0, 1.0, 1.0], 3)
    folds = np.repeat([0, 1, 2], 4)
    told, inverted = fold_aurocs(points, np.stack([label, 1 - label]), folds)
    assert (told, inverted) == (1.0, 1.0), "either direction is learned"
    shuffled = np.random.default_rng(0).permuted(np.tile(label, (200, 1)), axis=1)
    assert fold_aurocs(points, shuffled, folds).mean() < 0.6


def test_lengths_are_put_together_only_where_candidates_are_few():
    kinds = np.array(["city"] * 6 + ["film"] * 3)
    lengths = np.array([2, 2, 2, 3, 3, 9, 1, 1, 4])
    is_target = np.array([True, False, False, True, False, False, True, False, False])
    assert length_strata(kinds, lengths, is_target).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 4]
    is_target[5] = True  # nobody else is as long: 9 joins 3, and both join 2
    assert length_strata(kinds, lengths, is_target).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2], "3 is too few for both"
    assert length_strata(np.array(["city"]), np.array([2]), np.array([True])) is None
    assert piece_ranks([[0, 0], [1]]) == pytest.approx([0.0, np.log(2)])


def test_recombined_groups_have_the_very_pieces():
    names = ["Ada Brown", "Carl Dane", "Eve Finch", "Gus Hale"]
    people = [Entity(n, "person", {"job": ["cook"]}) for n in names]
    taken = ["ada dane"]
    groups = recombined_groups([*people, Entity("Oslo", "city")], taken, n_groups=12)
    assert len(groups) == 12
    for group in groups:
        assert not {e.name.lower() for e in group} & {*taken, *(n.lower() for n in names)}
        for place in (0, 1):
            assert Counter(e.name.split()[place] for e in group) == Counter(n.split()[place] for n in names)
        assert all(e.facts == {"job": []} and e.type == "person" for e in group), "one city alone allows none"
    assert len({tuple(e.name for e in group) for group in groups}) > 4
    assert recombined_groups(people[:2], [], n_groups=3) == []
