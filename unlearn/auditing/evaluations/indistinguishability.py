"""Indistinguishability: can a fresh classifier tell the targets' activations from those of unknown entities?

At every place (`places.py`): cross-validated AUROC, targets against unknown entities of like types and name lengths, in
held-out contexts, and a two-sample test (energy distance, labels permuted within types). `two_sample_p` joins the tests
at the last token of the name, where a model that never learned the targets does not fail; unknown entities are a
mixture of histories (mentioned only, or never met) where targets are of one, so the p is that against all of them or
those of one history, whichever the targets differ from least.

Folds keep entities whole; with fewer than `MIN_ENTITIES` targets they keep templates whole instead. Control range: the
same classifier between random groups of unknown entities, as many and of the same types, and the other unknown ones;
half of the groups are of one history where that is known. Spelling: the same classifier on the mean embedding of the
name's tokens; what it reaches there is no knowledge. Positive control: the same before unlearning. Beside it, what two
probes for known against unknown call the targets: one fitted on the *original* model, one on the model after.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from features.entities.collect import entity_means
from features.entities.entities import Entity
from features.entities.prompts import by_type
from features.stats.probe import auroc_interval, cross_validated_auroc, cross_validated_interval, fit_probe
from sae_train.intervals import Interval
from sae_train.rng import rng
from unlearn.auditing.audit_figures import Place, ProbeVotes
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import MIN_ENTITIES, AuditContext, mean_interval, units
from unlearn.auditing.evaluations.places import PlaceRows, is_last_token, place_prompts, place_rows, spelling_rows
from unlearn.auditing.evaluations.two_sample import TwoSample, energies, energy_test, joint_p


def evaluate_indistinguishability(context: AuditContext) -> Findings | None:
    """Return AUROC and p after/before with the control range per place, and what the probes say.

    None where `too_few_wordings` has a reason.
    """
    if too_few_wordings(context) is not None:
        return None
    rows = {(g, w): place_rows(context, g, w) for g in ("forget", "unknown") for w in ("before", "after")}
    drawn = _control_groups(context)
    spelling = _spelling(context)
    targets, others = rows["forget", "after"], rows["unknown", "after"]
    shared = [n for n in targets.acts if n in others.acts and _has_folds(context, targets, others, n)]
    return Findings(
        indistinguishability={name: _place(context, rows, drawn, name, spelling) for name in shared},
        two_sample_p=_joint_p(context, targets, others),
        probe=_probe(context, "before"),
        fresh_probe=_probe(context, "after"),
    )


def too_few_wordings(context: AuditContext) -> str | None:
    """Return why no classifier can be cross-validated on these targets, in words; None where one can.

    With few targets whole wordings are held out in turn, so that there have to be two. Nothing is run.
    """
    if len(context.forget) >= MIN_ENTITIES:
        return None
    counts = {g: len({p.template for p in place_prompts(context, g)}) for g in ("forget", "unknown")}
    if min(counts.values()) >= 2:
        return None
    n = len(context.forget)
    return (
        f"{n} target{'s' if n > 1 else ''} and {min(counts.values())} held-out wording that differs before the name, "
        f"where a classifier needs two such wordings, or {MIN_ENTITIES} targets"
    )


def _has_folds(context: AuditContext, targets: PlaceRows, others: PlaceRows, name: str) -> bool:
    """Tell whether both groups have two fold groups at a place: some have only names of a type with one wording."""
    return all(len(np.unique(_cases(context, rows, name)[2])) >= 2 for rows in (targets, others))


def _spelling(context: AuditContext) -> float:
    """Return how well targets are told from unknown entities by the tokens of their names alone."""
    targets, others = spelling_rows(context, "forget"), spelling_rows(context, "unknown")
    x, is_target, groups = _stacked(context, targets, others, "spelling")
    return cross_validated_auroc(x, is_target, groups, seed=context.config.seed)


def _place(
    context: AuditContext,
    rows: dict[tuple[str, str], PlaceRows],
    drawn: list[list[str]],
    name: str,
    spelling: float,
) -> Place:
    """Compare targets with unknown entities at one place."""
    seed = context.config.seed
    before, after = ((rows["forget", when], rows["unknown", when]) for when in ("before", "after"))
    # Positive control: where a classifier does not find the targets before the removal, it shows nothing after it.
    auroc_before = cross_validated_auroc(*_stacked(context, *before, name), seed=seed)
    test_before = _two_sample(context, *before, name)
    auroc = cross_validated_interval(*_stacked(context, *after, name), seed=seed)
    test = _two_sample(context, *after, name)
    controls = _controls(context, rows["unknown", "after"], drawn, name)
    return Place(
        auroc_before=auroc_before,
        energy_before=test_before.distance,
        p_value_before=test_before.p,
        auroc=auroc,
        energy=test.distance,
        p_value=test.p,
        control_low=float(np.percentile(controls, 2.5)) if controls else float("nan"),
        control_high=float(np.percentile(controls, 97.5)) if controls else float("nan"),
        control_mean=float(np.mean(controls)) if controls else float("nan"),
        spelling=spelling,
    )


def _cases(context: AuditContext, rows: PlaceRows, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, their entities, and what a fold must keep whole: entity means, or rows by template for few."""
    has = rows.having(name)
    acts, entity = rows.acts[name].numpy()[has].astype(np.float64), rows.entity[has]
    # With few targets, folds of whole entities would hold one or none; rows of whole templates are held out instead.
    if len(context.forget) < MIN_ENTITIES:
        return acts, entity, np.array([p.template for p, own in zip(rows.prompts, has, strict=True) if own])
    x, keys = entity_means(acts, entity)
    return x, keys, keys


def _stacked(
    context: AuditContext, targets: PlaceRows, others: PlaceRows, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points of both groups, which are targets, and their fold groups."""
    x, _, own = _cases(context, targets, name)
    y, _, other = _cases(context, others, name)
    is_target = np.r_[np.ones(len(x)), np.zeros(len(y))].astype(bool)
    return np.concatenate([x, y]), is_target, np.r_[own, other]


def _joint_p(context: AuditContext, targets: PlaceRows, others: PlaceRows) -> float:
    """Return the p of the places at the last name token, against the unknown entities that differ least."""
    seen = {e.key: str(e.seen) for e in context.unknown}
    of_entity = np.array([seen[key] for key in others.entity])
    types = Counter(e.type for e in context.forget)
    found = []
    for history in ("all", *sorted(set(of_entity))):
        chosen = (of_entity == history) | (history == "all")
        having = Counter(key.split(":", 1)[0] for key in np.unique(others.entity[chosen]))
        # A history with fewer entities of a type than there are targets is too thin to compare with.
        if history == "all" or all(having[kind] >= count for kind, count in types.items()):
            tests = [
                energies(
                    *_means(targets, others, place, chosen),
                    permutations=context.config.permutations,
                    seed=context.config.seed,
                )
                for place in targets.acts
                if is_last_token(place)
            ]
            found.append(joint_p(tests))
    # Targets have one history, unknown entities several: the difference of histories alone must not count.
    return max(found)


def _two_sample(context: AuditContext, targets: PlaceRows, others: PlaceRows, name: str) -> TwoSample:
    """Test one place."""
    points, is_first, strata = _means(targets, others, name, np.ones(len(others.entity), dtype=bool))
    return energy_test(points, is_first, strata, permutations=context.config.permutations, seed=context.config.seed)


def _means(
    targets: PlaceRows, others: PlaceRows, name: str, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return entity means, which are targets, and types.

    In standard deviations of all of them: a scale that knows the labels would be no test of these.
    """
    has, other_has = targets.having(name), others.having(name) & chosen
    x, own = entity_means(targets.acts[name].numpy()[has].astype(np.float64), targets.entity[has])
    y, other = entity_means(others.acts[name].numpy()[other_has].astype(np.float64), others.entity[other_has])
    points = np.concatenate([x, y])
    # Without this the dimensions of largest variance would decide the distances alone.
    points /= np.maximum(points.std(0), 1e-6)
    strata = np.array([key.split(":", 1)[0] for key in np.r_[own, other]])
    return points, np.r_[np.ones(len(x)), np.zeros(len(y))].astype(bool), strata


def _control_groups(context: AuditContext) -> list[list[str]]:
    """Draw groups of unknown entities, as many and of the same types as the targets; none where there are too few.

    Every second group holds entities with one history (`Entity.seen`: mentioned only, or never met) where that is
    known: targets have one history, too, and unknown entities are a mixture.
    """
    wanted = Counter(e.type for e in context.forget)
    mixed = by_type(context.unknown)
    # Twice as many, since every group is compared with the unknown entities that are left.
    if any(len(mixed.get(kind, [])) < 2 * count for kind, count in wanted.items()):
        return []
    alike = [
        by_type([e for e in context.unknown if e.seen == seen])
        for seen in sorted({str(e.seen) for e in context.unknown})
    ]
    pools = [mixed, *(p for p in alike if all(len(p.get(kind, [])) >= count for kind, count in wanted.items()))]
    groups = []
    for index in range(context.config.control_draws):
        generator = rng("indistinguishability.controls", context.config.seed, index)
        pool = pools[0 if index % 2 == 0 or len(pools) == 1 else 1 + index // 2 % (len(pools) - 1)]
        groups.append([e.key for kind, n in wanted.items() for e in _picked(pool[kind], n, generator)])
    return groups


def _picked(members: list[Entity], count: int, generator: np.random.Generator) -> list[Entity]:
    """Draw some, each once."""
    return [members[i] for i in generator.choice(len(members), count, replace=False)]


def _controls(context: AuditContext, rows: PlaceRows, drawn: list[list[str]], name: str) -> list[float]:
    """Return the AUROC of the drawn groups against the other unknown entities, in the model after."""
    x, keys, groups = _cases(context, rows, name)
    # A group of which one entity is left here cannot be in two folds.
    drawn = [own for own in drawn if len(np.unique(keys[np.isin(keys, own)])) >= min(2, len(own))]
    return [cross_validated_auroc(x, np.isin(keys, own), groups, seed=context.config.seed) for own in drawn]


def _probe(context: AuditContext, fitted_on: str) -> ProbeVotes:
    """Fit known against unknown on a model's mining half and ask it about targets and really unknown entities."""
    name = context.hook_point
    known, unknown = context.names_of("probe_known", fitted_on), context.names_of("probe_unknown", fitted_on)
    is_known = np.r_[np.ones(len(known.entity)), np.zeros(len(unknown.entity))].astype(bool)
    probe = fit_probe(torch.cat([known.acts[name], unknown.acts[name]]), is_known)

    def called_unknown(group: str, when: str) -> Interval:
        rows = context.names_of(group, when)
        # By entity: contexts of one name are not independent votes.
        votes = probe.scores(rows.acts[name]) < 0
        per_entity = [votes[rows.entity == key].astype(float).tolist() for key in np.unique(rows.entity)]
        return mean_interval(units(per_entity), context.config.seed)

    after, before = called_unknown("forget", "after"), called_unknown("forget", "before")
    really = context.names_of("unknown", fitted_on)
    kept = auroc_interval(
        probe.scores(torch.cat([known.acts[name], really.acts[name]])),
        np.r_[np.ones(len(known.entity)), np.zeros(len(really.entity))].astype(bool),
        np.r_[known.entity, really.entity],
        seed=context.config.seed,
    )
    return ProbeVotes(
        hook_point=name,
        fitted_on=fitted_on,
        unknown_before=before.value,
        unknown_after=after,
        unknown_control=called_unknown("unknown", "after").value,
        auroc_known_against_unknown=kept.value,
    )
