"""Latents from the files of SAEDashboard (`neuronpedia.py` says what is in them), to be shown like ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from features.browsing.records import About, Example, LatentRecord, Related
from features.browsing.saving import save_catalogue
from sae_train.errors import FileFormatError, MissingFileError
from sae_train.run.progress import Progress
from sae_train.text_files import read_json


class ImportedBatches:
    """Latents that SAEDashboard, or `write_batches`, wrote: a catalogue to be shown like one of ours.

    Latents that are not in the files are shown as never firing.

    Args:
        folder: With the files `batch-<n>.json`.

    Raises:
        MissingFileError: There is no such file in it.
        FileFormatError: A file is something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("batch-*.json"))
        if not paths:
            raise MissingFileError(
                f"no latents in '{folder}'",
                got=f"{folder}",
                expected="a folder with files batch-0.json, batch-1.json, …; for an SAE `activations`",
            )
        self._ids: dict[str, int] = {}
        self._head: dict[str, Any] = {}
        self._records: dict[int, LatentRecord] = {}
        for path in paths:
            self._read(path)
        # Firings counted, by the share that they are, of the latent with most of them.
        most = max(self._records.values(), key=lambda r: r.n_fired, default=_never(0))
        self._n_tokens = max(1, round(most.n_fired / most.rate)) if most.rate > 0 else 1

    def _read(self, path: Path) -> None:
        """Read one file whole."""
        batch = read_json(path)
        try:
            self._head = {name: batch[name] for name in ("model_id", "layer", "sae_set")}
            for feature in batch["features"]:
                record = self._record(feature)
                self._records[record.latent] = record
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"cannot read '{path}'",
                got=f"{type(error).__name__}: {error}"[:160],
                expected="a batch of SAEDashboard: model_id, layer, sae_set, features",
            ) from error

    @property
    def n_latents(self) -> int:
        """Return one more than the largest number in the files."""
        return 1 + max(self._records, default=-1)

    def words(self) -> Mapping[int, str]:
        """Return the text of every token, by numbers of our own: the files name none."""
        return {i: text for text, i in self._ids.items()}

    def about(self) -> About:
        """Return what the files say of all latents."""
        return About(
            sae=str(self._head["sae_set"]),
            hook_point=f"layers.{self._head['layer']}",
            model=str(self._head["model_id"]),
            n_tokens=self._n_tokens,
            has_lens=any(r.promoted for r in self._records.values()),
            provenance=(("read from", self.folder),),
        )

    def summary(self) -> dict[str, Any]:
        """Return the figures, as `wb features --json` prints them."""
        about, found = self.about(), list(self.records())
        return {
            "hook_point": about.hook_point,
            "n_latents": self.n_latents,
            "n_tokens": self._n_tokens,
            "frac_dead": sum(r.n_fired == 0 for r in found) / max(1, len(found)),
            "l0": sum(r.rate for r in found),
        }

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[LatentRecord]:
        """Yield the latents from `start` to `stop`, in order."""
        for latent in range(start, self.n_latents if stop is None else min(stop, self.n_latents)):
            record = self._records.get(latent, _never(latent))
            yield record._replace(n_fired=round(record.rate * self._n_tokens))

    def save(self, out: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Write the page and what it loads into a folder, whole, and return the folder.

        Raises:
            OutputExistsError: Something is there already, and it is not to be overwritten.
        """
        return save_catalogue(
            self,
            out,
            config={},
            inputs={"folder": str(self.folder)},
            result=self.summary(),
            beside=lambda folder: None,
            overwrite=overwrite,
            progress=progress,
        )

    def _record(self, feature: Mapping[str, Any]) -> LatentRecord:
        """Return one latent."""
        activations = [a for a in feature["activations"] if a["values"] and max(a["values"]) > 0]
        examples = [(a["bin_min"] == -1, self._example(a)) for a in activations]
        top, some = ([e for is_top, e in examples if is_top == wanted] for wanted in (True, False))
        middles = [float(m) for m in feature["freq_hist_data_bar_values"]]
        counts = [int(n) for n in feature["freq_hist_data_bar_heights"]]
        n_fired = sum(counts)
        total = sum(m * n for m, n in zip(middles, counts, strict=True))
        return _never(int(feature["feature_index"]))._replace(
            n_fired=n_fired,
            rate=float(feature["frac_nonzero"]),
            max=max((e.value for _, e in examples), default=0.0),
            mean=total / n_fired if n_fired else 0.0,
            edges=_edges(middles),
            counts=counts if len(middles) > 1 else [],
            top=top,
            sampled=sorted(some, key=lambda e: -e.value),
            promoted=self._related(feature, "pos"),
            suppressed=self._related(feature, "neg"),
        )

    def _example(self, activation: Mapping[str, Any]) -> Example:
        """Return an example; its peak is its strongest token."""
        values = [float(v) for v in activation["values"]]
        ids = [self._id(t) for t in activation["tokens"]]
        if len(ids) != len(values):
            raise ValueError(f"{len(ids)} tokens with {len(values)} values")
        return Example(-1, -1, values.index(max(values)), ids, values)

    def _related(self, feature: Mapping[str, Any], name: str) -> list[Related]:
        """Return the tokens that a latent raises (`pos`) or lowers (`neg`)."""
        pairs = zip(feature[f"{name}_str"], feature[f"{name}_values"], strict=True)
        return [Related(self._id(text), float(value)) for text, value in pairs]

    def _id(self, text: object) -> int:
        """Return the number of a token."""
        return self._ids.setdefault(str(text), len(self._ids))


def _never(latent: int) -> LatentRecord:
    """Return a latent that never fires."""
    return LatentRecord(latent, 0, 0.0, 0.0, 0.0, [], [], [], [], [], [], [], [], None, False)


def _edges(middles: list[float]) -> list[float]:
    """Return edges halfway between the middles of bins; none for fewer than two bins."""
    if len(middles) < 2:
        return []
    between = [(a + b) / 2 for a, b in zip(middles[:-1], middles[1:], strict=True)]
    return [middles[0] - (between[0] - middles[0]), *between, middles[-1] + (middles[-1] - between[-1])]
