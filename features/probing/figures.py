"""What k-sparse probing found, per dataset and over all of them; JSON keys and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sae_train.intervals import Interval, flat
from sae_train.quality.bootstrap import draw_counts, percentile_interval
from sae_train.run.notebook import html_table

DENSE = "dense"  # the probe of the activations themselves, beside those of 1, 5, … latents


@dataclass(frozen=True)
class ProbeFigures:
    """How well one probe tells the classes of held-out texts apart.

    Attributes:
        auroc: With its bootstrap interval over texts.
        accuracy: Share of texts put into the right class, with Wilson's interval.
        latents: What it reads, the most different ones first; empty for the probe of the activations.
    """

    auroc: Interval
    accuracy: Interval
    latents: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetProbes:
    """The probes of one set of labelled texts.

    Attributes:
        n_train, n_test: Texts.
        dense: The probe of the activations.
        sparse: The probes of latents, by their number.
    """

    n_train: int
    n_test: int
    dense: ProbeFigures
    sparse: Mapping[int, ProbeFigures]


@dataclass(frozen=True)
class ProbingReport:
    """K-sparse probing of an SAE.

    Attributes:
        hook_point: Where it reads.
        datasets: The probes by dataset.
    """

    hook_point: str
    datasets: Mapping[str, DatasetProbes]

    def mean(self, figure: str, k: int | None) -> Interval:
        """Return the mean over datasets of `auroc` or `accuracy`: of k latents, or (None) of the activations.

        The interval is a bootstrap over datasets; with one dataset it is that dataset's own, over texts.
        """
        own = [getattr(d.dense if k is None else d.sparse[k], figure) for d in self.datasets.values()]
        if len(own) == 1:
            return own[0]
        values, n = np.array([interval.value for interval in own]), len(own)
        return percentile_interval(float(values.mean()), draw_counts(n) @ values / n, n)

    @property
    def ks(self) -> tuple[int, ...]:
        """Return the numbers of latents, the same for all datasets."""
        return tuple(next(iter(self.datasets.values())).sparse)

    def summary(self) -> dict[str, Any]:
        """Return it as `wb eval-sae --json` prints it."""
        names: dict[str, int | None] = {**{f"k{k}": k for k in self.ks}, DENSE: None}
        means = {
            f"probe_{figure}_{name}": self.mean(figure, k)
            for name, k in names.items()
            for figure in ("auroc", "accuracy")
        }
        return {**flat(means), "probes": {name: _dataset(own) for name, own in self.datasets.items()}}

    def table(self) -> pd.DataFrame:
        """Return a row per dataset and probe: `dataset`, `probe`, `auroc`, `accuracy` with their ends, `latents`."""
        rows = [
            {"dataset": name, "probe": probe, **found}
            for name, own in self.datasets.items()
            for probe, found in _dataset(own)["probes"].items()
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        means = {f"AUROC, {k} latents": self.mean("auroc", k) for k in self.ks}
        means["AUROC, activations"] = self.mean("auroc", None)
        rows = {name: f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for name, i in means.items()}
        return html_table(f"Probes of {self.hook_point}", {"datasets": len(self.datasets), **rows})


def _dataset(found: DatasetProbes) -> dict[str, Any]:
    """Return one dataset's part of the JSON."""
    probes = {**{str(k): own for k, own in found.sparse.items()}, DENSE: found.dense}
    return {
        "n_train": found.n_train,
        "n_test": found.n_test,
        "probes": {name: {**flat(own), "latents": list(own.latents)} for name, own in probes.items()},
    }
