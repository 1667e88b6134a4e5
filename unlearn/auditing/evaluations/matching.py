"""Matching: which never-known entities could have been the targets, and what may be exchanged for what.

Strata hold entities of one type, history and number of name tokens; neighbouring lengths are put together where a type
has too few of one. How frequent the pieces of a name are is taken out by regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from features.entities.entities import Entity
from features.labels.made_up import recombined_groups
from sae_train.text.tokens import encode_plain
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.two_sample import relabelled

ANY, OWN = "any history", "their own"


ANY, OWN, RECOMBINED = "any history", "their own", "never met, of the targets' own pieces"
N_RECOMBINED = 59  # groups: p is 1/60 at the least


@dataclass(frozen=True)
class Matching:
    """Targets, then the candidates that fit them, under one assumption about the targets' history.

    Attributes:
        history: The assumption: that of the candidates, `OWN` where it is known of each target, or `ANY`; `RECOMBINED`:
            the candidates are names that nobody ever met, of the targets' pieces.
        entities: Of targets and candidates.
        labels: Who is in the group: the targets first, then every null group.
        strata: Entities are alike in what is matched exactly where these agree.
        covariates: Taken out by regression: type by type an intercept, length of the name, rank of its pieces.
    """

    history: str
    entities: list[Entity]
    labels: Float[np.ndarray, "draws n"]
    strata: Int[np.ndarray, " n"]
    covariates: Float[np.ndarray, "n n_covariates"]


def matchings(context: AuditContext) -> list[Matching]:
    """Return one matching per history that the targets could have; none where candidates are too few.

    The history of a name that was never learned is one that unknown names have: mentioned only, or never met. Where
    that of the targets is not known, each is tried, the mixture, and names of their own pieces: where training never
    had the targets it had their pieces less often than those of others, too.
    """
    own, others = context.forget, context.unknown
    histories = sorted({str(e.seen) for e in others})
    if {str(e.seen) for e in own} <= set(histories) - {"None"}:
        tried = {OWN if len(histories) > 1 else ANY: others}
    else:
        alike = {h: [e for e in others if str(e.seen) == h] for h in histories}
        tried = {ANY: others, **(alike if len(histories) > 1 else {})}
    found = [_matching(context, own, candidates, history) for history, candidates in tried.items()]
    found.append(None if OWN in tried else _recombined(context))
    return [m for m in found if m is not None]


def _matching(
    context: AuditContext, targets: Sequence[Entity], candidates: Sequence[Entity], history: str
) -> Matching | None:
    """Return the matching; None where a stratum has fewer candidates than targets."""
    entities = [*targets, *candidates]
    is_target = np.arange(len(entities)) < len(targets)
    ids = encode_plain(context.before.tokenizer, [f" {e.name}" for e in entities])[0]
    lengths = np.array([len(own) for own in ids])
    kinds = np.array([f"{e.type}|{e.seen}" if history == OWN else e.type for e in entities])
    strata = length_strata(kinds, lengths, is_target)
    if strata is None:
        return None
    kept = np.isin(strata, strata[is_target])  # what no target could be exchanged for tells nothing
    chosen = [e for e, own in zip(entities, kept, strict=True) if own]
    covariates = np.c_[_intercepts(chosen), lengths[kept], piece_ranks(ids)[kept]]
    config = context.config
    labels = relabelled(is_target[kept], strata[kept], config.permutations, config.seed)
    return Matching(history, chosen, labels, strata[kept], covariates)


def _recombined(context: AuditContext) -> Matching | None:
    """Return the targets beside whole groups of names made of their pieces; None where their names allow none."""
    known = (context.forget, context.neighbours, context.retain, context.unknown)
    taken = [e.name for group in (*known, context.probe_known, context.probe_unknown) for e in group]
    groups = recombined_groups(context.forget, taken, n_groups=N_RECOMBINED, seed=context.config.seed)
    if len(groups) < N_RECOMBINED:
        return None
    classes = {(e.type, len(e.name.split())) for e in groups[0]}
    own = [e for e in context.forget if (e.type, len(e.name.split())) in classes]
    if 2 * len(own) < len(context.forget):
        return None
    everyone = {e.key: e for group in (own, *groups) for e in group}
    at = {key: index for index, key in enumerate(everyone)}
    labels = np.zeros((1 + len(groups), len(everyone)))
    for row, group in enumerate((own, *groups)):
        labels[row, [at[e.key] for e in group]] = 1.0
    entities = list(everyone.values())
    lengths = [len(ids) for ids in encode_plain(context.before.tokenizer, [f" {e.name}" for e in entities])[0]]
    strata = np.unique([e.type for e in entities], return_inverse=True)[1]
    return Matching(RECOMBINED, entities, labels, strata, np.c_[_intercepts(entities), lengths])


def _intercepts(entities: Sequence[Entity]) -> Float[np.ndarray, "n n_types"]:
    """Return which entity is of which type."""
    types = np.array([e.type for e in entities])
    return (types[:, None] == np.unique(types)[None]).astype(float)


def piece_ranks(ids: Sequence[Sequence[int]]) -> Float[np.ndarray, " n"]:
    """Return the mean over a name's tokens of log(1 + id): vocabularies are in the order of frequency, merge by merge.

    Not counted in the audit's text: documents that name a target are left out of it, so their pieces look rare there.

    Example:
        >>> piece_ranks([[0], [0, 0]]).tolist()
        [0.0, 0.0]
    """
    return np.array([np.mean(np.log1p(own)) for own in ids])


def length_strata(
    kinds: np.ndarray, lengths: Int[np.ndarray, " n"], is_target: Bool[np.ndarray, " n"]
) -> Int[np.ndarray, " n"] | None:
    """Return a stratum per entity: its kind, and its length as far as there are candidates of it.

    Example:
        >>> kinds, lengths = np.array(["city"] * 5), np.array([2, 3, 3, 4, 4])
        >>> length_strata(kinds, lengths, np.array([True, False, False, True, False])).tolist()
        [0, 0, 0, 1, 1]
    """
    strata, next_free = np.full(len(kinds), -1), 0
    for kind in dict.fromkeys(kinds.tolist()):
        own = kinds == kind
        bins = [[int(length)] for length in np.unique(lengths[own])]
        while (thin := _too_thin(bins, lengths[own], is_target[own])) is not None:
            if len(bins) == 1:
                return None
            gaps = {i: abs(bins[i][0] - bins[thin][0]) for i in (thin - 1, thin + 1) if 0 <= i < len(bins)}
            other = min(gaps, key=lambda i: gaps[i])
            first, second = sorted((thin, other))
            bins[first : second + 1] = [bins[first] + bins[second]]
        for index, group in enumerate(bins):
            strata[own & np.isin(lengths, group)] = next_free + index
        next_free += len(bins)
    return strata


def _too_thin(bins: list[list[int]], lengths: np.ndarray, is_target: np.ndarray) -> int | None:
    """Return the first bin with fewer candidates than targets."""
    for index, group in enumerate(bins):
        inside = np.isin(lengths, group)
        if (inside & ~is_target).sum() < (inside & is_target).sum():
            return index
    return None


def what_is_matched(context: AuditContext, chosen: Matching) -> tuple[str, ...]:
    """Return what targets and null groups agree in, and what of it is assumed, for the reader."""
    if chosen.history == RECOMBINED:
        return ("type of entity", "the very pieces of the names, each as often and in its place", "history: never met")
    lines = ["type of entity", "number of name tokens (neighbouring numbers together where there are few candidates)"]
    lines.append("frequency of the name's pieces, by their place in the vocabulary (taken out by regression)")
    if all(e.seen is None for e in context.unknown):
        return (
            *lines,
            "not the history: whether training mentioned a name is not known here, so that the null is wider",
        )
    said = {OWN: "history: whether training mentioned the name", ANY: "no history: a mixture fits the targets best"}
    return (*lines, said.get(chosen.history, f"history '{chosen.history}', the one that fits the targets best"))
