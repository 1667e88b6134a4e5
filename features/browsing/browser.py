"""All latents of an SAE on the text of a store: as tables, as records, and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from features.browsing.best import BestPerLatent
from features.browsing.cofiring import Together
from features.browsing.neuronpedia import write_batches
from features.browsing.passages import Passages
from features.browsing.records import About, Example, Explained, LatentRecord, Related
from features.browsing.relatives import Lens, Similar, Twins
from features.browsing.saving import save_catalogue
from features.browsing.strength import EDGES, StrengthCounts
from features.browsing.tables import browser_html, example_table, latent_table
from features.config import BrowseConfig
from sae_train.fields import require
from sae_train.run.progress import Progress
from sae_train.run.runs import write_json

if TYPE_CHECKING:
    import pandas as pd

READ_LATENTS = 256  # whose records are made at a time


@dataclass(frozen=True)
class Examples:
    """Examples of every latent, strongest first.

    Attributes:
        row: Row of the store, -1 where there is none, (n_latents, n).
        window: The latent at the tokens around it, (n_latents, n, width).
    """

    row: Int[np.ndarray, "n_latents n"]
    window: Float[np.ndarray, "n_latents n width"]

    @staticmethod
    def of(best: BestPerLatent, n_before: int) -> Examples:
        """Sort what a pass kept by the activation."""
        value = np.where(best.row >= 0, best.window[:, :, n_before], -np.inf)
        order = np.argsort(-value, axis=1, kind="stable")
        window = np.take_along_axis(best.window, order[:, :, None], axis=1)
        return Examples(np.take_along_axis(best.row, order, axis=1), window)


@dataclass(frozen=True)
class LatentBrowser:
    """All latents of an SAE: how often and how strongly each fires, on what, and what it is related to.

    Attributes:
        hook_point, sae, model: Names; the model's is empty where none was given.
        config: How much was kept.
        passages: The text that was read.
        top: Strongest examples, one per passage.
        sampled: Firings drawn with equal chances.
        strength: Number, sum and histogram of the activations.
        similar: Nearest decoder rows.
        together: Latents that fire on the same tokens.
        twins: Nearest latents of another SAE; None without one.
        lens: Tokens that latents promote and suppress; None without a model.
        tokenizer: That of the model; None without one, tokens are then shown by number.
        explained: Explanations by latent.
        requests: What is to be asked about explanations, by file name.
        identity: Hashes and names of what it was made from.
    """

    hook_point: str
    sae: str
    model: str
    config: BrowseConfig
    passages: Passages
    top: Examples
    sampled: Examples
    strength: StrengthCounts
    similar: Similar
    together: Together
    twins: Twins | None = None
    lens: Lens | None = None
    tokenizer: Any = None
    explained: Mapping[int, Explained] = field(default_factory=dict)
    requests: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_latents(self) -> int:
        """Return the number of latents."""
        return len(self.strength.n_fired)

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens that were read."""
        return self.passages.n_tokens

    def rate(self) -> Float[np.ndarray, " n_latents"]:
        """Return the share of tokens on which each latent fires."""
        return self.strength.n_fired / self.n_tokens

    def max(self) -> Float[np.ndarray, " n_latents"]:
        """Return the largest activation of each latent, 0 for one that never fires."""
        return self.top.window[:, 0, self.config.n_before].astype(np.float64)

    def mean(self) -> Float[np.ndarray, " n_latents"]:
        """Return the mean of the activations above zero of each latent, 0 for one that never fires."""
        return self.strength.total / np.maximum(1, self.strength.n_fired)

    def is_dead(self) -> Bool[np.ndarray, " n_latents"]:
        """Return which latents fire on none of the tokens."""
        return self.strength.n_fired == 0

    @cached_property
    def _words(self) -> dict[int, str]:
        parts = [self._token_ids(e, slice(None)).ravel() for e in (self.top, self.sampled)]
        parts += [] if self.lens is None else [self.lens.promoted.ravel(), self.lens.suppressed.ravel()]
        ids = np.unique(np.concatenate([np.unique(part) for part in parts]))
        return self.texts_of(ids[ids >= 0].tolist())

    def texts_of(self, ids: list[int]) -> dict[int, str]:
        """Return the text of tokens by id; without a tokenizer their numbers."""
        if self.tokenizer is None:
            return {i: f"#{i} " for i in ids}
        return dict(zip(ids, self.tokenizer.batch_decode([[i] for i in ids]), strict=True))

    def words(self) -> Mapping[int, str]:
        """Return the text of every token that is shown, by its id."""
        return self._words

    def text(self, example: Example) -> str:
        """Return the text of an example."""
        return "".join(self._words[i] for i in example.token_ids)

    def _token_ids(self, examples: Examples, part: slice) -> Int[np.ndarray, "part n width"]:
        """Return the tokens of some latents' examples; -1 outside their passages."""
        row = examples.row[part]
        begin, end = self.passages.window(row, self.config.n_before, self.config.n_after)
        near = row[:, :, None] + np.arange(-self.config.n_before, self.config.n_after + 1)
        is_shown = (near >= begin[:, :, None]) & (near < end[:, :, None]) & (row >= 0)[:, :, None]
        return np.where(is_shown, self.passages.token_id[near.clip(0, len(self.passages.token_id) - 1)], -1)

    def _examples(self, examples: Examples, part: slice) -> list[list[Example]]:
        """Return the examples of some latents."""
        row, before = examples.row[part], self.config.n_before
        tokens = self._token_ids(examples, part)
        begin, end = (tokens >= 0).argmax(axis=2).tolist(), (tokens >= 0).sum(axis=2).tolist()
        doc_id, position = self.passages.doc_id[row].tolist(), self.passages.position[row].tolist()
        ids, values, rows = tokens.tolist(), examples.window[part].tolist(), row.tolist()
        found = []
        for i, of_latent in enumerate(rows):
            shown = []
            for k, number in enumerate(of_latent):
                if number >= 0:
                    a, b = begin[i][k], begin[i][k] + end[i][k]
                    shown.append(Example(doc_id[i][k], position[i][k], before - a, ids[i][k][a:b], values[i][k][a:b]))
            found.append(shown)
        return found

    def record(self, latent: int) -> LatentRecord:
        """Return what is known of one latent.

        Raises:
            ConfigError: There is no such latent.
        """
        require(0 <= latent < self.n_latents, "latent", latent, f"0 to {self.n_latents - 1}")
        return next(self.records(latent, latent + 1))

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[LatentRecord]:
        """Yield what is known of each latent from `start` to `stop`, in order."""
        end = self.n_latents if stop is None else min(stop, self.n_latents)
        largest, mean, rate = self.max(), self.mean(), self.rate()
        has_twin = None if self.twins is None else self.twins.has_twin()
        for first in range(start, end, READ_LATENTS):
            part = slice(first, min(first + READ_LATENTS, end))
            top, sampled = self._examples(self.top, part), self._examples(self.sampled, part)
            for i, latent in enumerate(range(part.start, part.stop)):
                edges, counts = _histogram(self.strength.histogram[latent])
                lens = self.lens
                yield LatentRecord(
                    latent=latent,
                    n_fired=int(self.strength.n_fired[latent]),
                    rate=float(rate[latent]),
                    max=float(largest[latent]),
                    mean=float(mean[latent]),
                    edges=edges,
                    counts=counts,
                    top=top[i],
                    sampled=sampled[i],
                    promoted=[] if lens is None else _related(lens.promoted[latent], lens.raised[latent]),
                    suppressed=[] if lens is None else _related(lens.suppressed[latent], lens.lowered[latent]),
                    similar=_related(self.similar.latent[latent], self.similar.cosine[latent]),
                    together=_related(self.together.latent[latent], self.together.jaccard[latent]),
                    twin=None
                    if self.twins is None
                    else Related(int(self.twins.latent[latent]), float(self.twins.cosine[latent])),
                    has_twin=has_twin is not None and bool(has_twin[latent]),
                )

    def table(self) -> pd.DataFrame:
        """Return a row per latent: firing, strongest token, relatives, explanation; the columns that were measured."""
        return latent_table(self)

    def examples(self, latent: int) -> pd.DataFrame:
        """Return the examples of one latent, a row each: kind, group of strength, activation, place, token, text.

        Raises:
            ConfigError: There is no such latent.
        """
        return example_table(self, latent)

    def summary(self) -> dict[str, Any]:
        """Return the figures, as `wb features --json` prints them."""
        alive = self.rate()[~self.is_dead()]
        found: dict[str, Any] = {
            "hook_point": self.hook_point,
            "n_latents": self.n_latents,
            "n_tokens": self.n_tokens,
            "frac_dead": float(self.is_dead().mean()),
            "l0": float(self.rate().sum()),
            "median_rate": float(np.median(alive)) if len(alive) else float("nan"),
            "n_cofiring_rows": self.together.n_rows,
        }
        if self.twins is not None:
            found["frac_twins"] = float(self.twins.has_twin().mean())
        if self.explained:
            found["n_explained"] = len(self.explained)
            for name in ("detection", "fuzzing"):
                scores = [getattr(e, name) for e in self.explained.values() if getattr(e, name) is not None]
                if scores:
                    found[name] = float(np.mean([s.balanced_accuracy for s in scores]))
        return found

    def about(self) -> About:
        """Return what holds for all latents."""
        return About(
            sae=self.sae,
            hook_point=self.hook_point,
            model=self.model,
            n_tokens=self.n_tokens,
            n_passages=len(self.passages.start),
            n_cofiring_rows=self.together.n_rows,
            other=None if self.twins is None else self.twins.sae,
            has_lens=self.lens is not None,
            explained=self.explained,
            provenance=tuple((k.replace("_", " "), v) for k, v in self.identity.items()),
        )

    def save(
        self,
        out: str | Path,
        *,
        export: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Write the page and what it loads into a folder, whole, and return the folder; `index.html` is the page.

        Args:
            out: The folder.
            export: Also write the latents as SAEDashboard does, into `neuronpedia` in it.
            overwrite: Replace what an earlier run wrote there.
            progress: Shows how far it is.

        Raises:
            OutputExistsError: Something is there already, and it is not to be overwritten.
        """

        def beside(folder: Path) -> None:
            if export:
                write_batches(self, folder / "neuronpedia", dataset=str(self.identity.get("text") or ""))
            for name, entries in self.requests.items():
                write_json(folder / name, entries)

        return save_catalogue(
            self,
            out,
            config=self.config,
            inputs=self.identity,
            result=self.summary(),
            beside=beside,
            overwrite=overwrite,
            progress=progress,
        )

    def _repr_html_(self) -> str:
        """Show it in a notebook: the figures, and the latents that fire most."""
        return browser_html(self)


def _histogram(counts: Int[np.ndarray, " bin"]) -> tuple[list[float], list[int]]:
    """Return edges and counts of the bins from the first to the last with a firing; one edge more than bins."""
    used = np.flatnonzero(counts)
    if not len(used):
        return [], []
    first, last = int(used[0]), int(used[-1]) + 1
    return EDGES[first : last + 1].tolist(), counts[first:last].tolist()


def _related(index: Int[np.ndarray, " n"], value: Float[np.ndarray, " n"]) -> list[Related]:
    """Return those that are there."""
    return [Related(i, v) for i, v in zip(index.tolist(), value.tolist(), strict=True) if i >= 0]
