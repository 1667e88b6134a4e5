"""The browser of all latents: `index.html` and, beside it in `data`, what it loads: an index, words, records by shard.

A page that is opened from a disk may not read files beside it, but it may load scripts: every data file is a call of a
function of the page. The index is read at once, a shard of `SHARD` latents when one of them is chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from features.browsing.cofiring import MIN_TOGETHER
from features.browsing.records import About, Catalogue, Example, LatentRecord, Related
from features.pages.latents_page import environment, listed
from features.pages.plots import NBSP, percent
from features.pages.training_plots import density_bars
from sae_train.quality.metrics import density_histogram
from sae_train.run.progress import Advance, no_advance
from sae_train.run.runs import write_text
from sae_train.saes.comparison import TWIN_COSINE

SHARD = 128  # latents: about half a megabyte, read when the first of them is chosen
WIDTH = 6  # tokens of a latent in the list and in the search
DIGITS = 4  # significant ones of an activation; of a shade a thousandth


class _Index:
    """Collects what the list, its orders and its search need of every latent."""

    def __init__(self, about: About) -> None:
        self.about = about
        self.fired: list[int] = []
        self.max: list[float] = []
        self.tokens: list[int] = []
        self.promoted: list[int] = []
        self.twin: list[float] = []

    def add(self, record: LatentRecord) -> None:
        """Add a latent."""
        self.fired.append(record.n_fired)
        self.max.append(_short(record.max))
        self.tokens += _padded(e.token_ids[e.peak] for e in record.top)
        if self.about.has_lens:
            self.promoted += _padded(r.number for r in record.promoted)
        if self.about.other is not None:
            self.twin.append(_short(record.twin.value if record.twin else 0.0))

    def data(self) -> dict[str, Any]:
        """Return it for the page."""
        explained = {
            latent: [e.explanation, *(s and _short(s.balanced_accuracy) for s in (e.detection, e.fuzzing))]
            for latent, e in self.about.explained.items()
        }
        return {
            "n": len(self.fired),
            "n_tokens": self.about.n_tokens,
            "shard": SHARD,
            "width": WIDTH,
            "other": self.about.other,
            "fired": self.fired,
            "max": self.max,
            "tokens": self.tokens,
            "promoted": self.promoted if self.about.has_lens else None,
            "twin": self.twin if self.about.other is not None else None,
            "explained": explained,
        }


def write_browser_page(catalogue: Catalogue, folder: Path, advance: Advance = no_advance) -> None:
    """Write the page and its data into a folder.

    Args:
        catalogue: The latents.
        folder: Where; it is there already.
        advance: Called with the number of latents written.
    """
    about = catalogue.about()
    data = folder / "data"
    index = _Index(about)
    for number, start in enumerate(range(0, catalogue.n_latents, SHARD)):
        records = list(catalogue.records(start, start + SHARD))
        for record in records:
            index.add(record)
        _write(data / f"latents-{number:04d}.js", "browserShard", number, [_packed(r) for r in records])
        advance(len(records))
    _write(data / "words.js", "browserWords", {str(i): text for i, text in catalogue.words().items()})
    _write(data / "index.js", "browserIndex", index.data())
    template = environment().get_template("browser.html.j2")
    write_text(folder / "index.html", template.render(_view(about, index.fired)))


def _view(about: About, fired: Sequence[int]) -> dict[str, Any]:
    """Return everything the template shows."""
    counts = torch.tensor(list(fired))
    n_dead = int((counts == 0).sum())
    density = density_histogram(counts, about.n_tokens)
    figure = density_bars("density", density.log10_edges, density.n_latents, density.n_never, tokens="the tokens read")
    model = Path(about.model).name
    where = " of ".join(filter(None, [about.hook_point, model]))
    return {
        "title": f"Latents of {about.sae or where or 'an SAE'}",
        "kind": "All latents of a sparse autoencoder",
        "subject": where,
        "finding": _finding(len(fired), n_dead),
        "lead": f"What each latent{f' at {where}' if where else ''} fires on, how often and how strongly, "
        f"on {about.n_tokens:,} tokens of running text.",
        "about": about,
        "n_latents": len(fired),
        "dead": n_dead / max(1, len(fired)),
        "dead_text": f"{n_dead:,}{NBSP}latents",
        "searched": _searched(about),
        "l0": sum(fired) / max(1, about.n_tokens),
        "density": Markup(figure),
        "min_together": MIN_TOGETHER,
        "twin_cosine": TWIN_COSINE,
        "provenance": about.provenance,
    }


def _finding(n_latents: int, n_dead: int) -> str:
    """Say what is most worth knowing."""
    if n_dead == 0:
        return f"All {n_latents:,} latents fire on this text."
    return f"{n_latents - n_dead:,} of {n_latents:,} latents ({percent(1 - n_dead / n_latents)}) fire on this text."


def _searched(about: About) -> str:
    """Say where a text is looked for."""
    places = ["the tokens on which a latent is strongest"]
    places += ["the tokens that it makes likelier"] if about.has_lens else []
    places += ["explanations"] if about.explained else []
    return listed(places)


def _packed(record: LatentRecord) -> list[Any]:
    """Return a record as the page reads it, by place."""
    most = record.max or 1.0
    return [
        record.n_fired,
        _short(record.max),
        _short(record.mean),
        [_short(edge) for edge in record.edges],
        record.counts,
        [_example(e, most) for e in record.top],
        [_example(e, most) for e in record.sampled],
        *(_pairs(r) for r in (record.promoted, record.suppressed, record.similar, record.together)),
        None if record.twin is None else [record.twin.number, _short(record.twin.value), record.has_twin],
    ]


def _example(example: Example, most: float) -> list[Any]:
    """Return document, position, peak, tokens, and activations in thousandths of the latent's largest."""
    shades = [round(1000 * v / most) if v > 0 else 0 for v in example.values]
    return [example.doc_id, example.position, example.peak, example.token_ids, shades]


def _pairs(related: Sequence[Related]) -> list[list[Any]]:
    """Return numbers and values apart."""
    return [[r.number for r in related], [_short(r.value) for r in related]]


def _padded(ids: Iterable[int]) -> list[int]:
    """Return the first different ids, filled up with -1."""
    return ([*dict.fromkeys(ids)] + [-1] * WIDTH)[:WIDTH]


def _short(value: float) -> float:
    """Return a number of few digits.

    Example:
        >>> _short(3.14159265), _short(0.000123456)
        (3.142, 0.0001235)
    """
    return float(f"{value:.{DIGITS}g}")


def _write(path: Path, function: str, *arguments: Any) -> None:
    """Write a script that calls a function of the page; plain ASCII, whatever the tokens are."""
    text = ",".join(json.dumps(a, separators=(",", ":"), allow_nan=False) for a in arguments)
    write_text(path, f"{function}({text});\n")
