"""`training.html`: how an SAE was trained, as a page made from the SAE folder alone.

Frame and number formats: `latents_page.py`. A run that was resumed logged some steps twice; the later line counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from features.pages.latents_page import environment, figure_text
from features.pages.plots import NBSP, is_number, percent
from features.pages.training_plots import Curve, density_bars, tokens_text, training_curve
from sae_train.errors import FileFormatError
from sae_train.intervals import Interval, read_interval
from sae_train.renamed import with_current_names
from sae_train.run.runs import require_file, write_text
from sae_train.text_files import json_of, read_json, read_lines

PAGE = "training.html"
# Of a line; the rest are terms of the loss. `lp_next` only sets the weight of `lp`.
_NOT_TERMS = ("step", "tokens", "split", "lr", "frac_dead", "l0", "fvu", "lp_next")
_FROM_ZERO = ("l0", "lr", "auxk")  # figures whose zero says something
_MEANINGS = {
    "fvu": "Share of the variance of the batch that the reconstruction leaves unexplained.",
    "loss": "What training minimises.",
    "mse": "Squared error per token and dimension, in the training scale.",
    "auxk": "How much of the rest the dead latents fail to explain; 0 while none is dead.",
    "l1": "Latents weighted by the length of their decoder rows, per token and dimension.",
    "lp": "The same with the power of the step, before its weight.",
    "fvu_first_prefix": "The same share for the smallest nested dictionary alone.",
    "l0": "Latents that are on, per token.",
    "frac_dead": "Latents that have not fired for long.",
    "lr": "Adam’s step size: warm-up, then constant, then down to zero.",
}
_TITLES = {
    "fvu": "FVU",
    "loss": "Loss",
    "mse": "Squared error",
    "auxk": "Dead-latent loss (AuxK)",
    "l1": "Sparsity term",
    "lp": "Sparsity term",
}
_TITLES |= {"l0": "L0", "frac_dead": "Dead latents", "lr": "Step size", "fvu_first_prefix": "FVU, first prefix"}
_FIGURES = {
    "fvu": "Variance left unexplained (FVU)",
    "l0": "Latents per token (L0)",
    "frac_dead": "Share of latents that never fire",
    "l2_ratio": "Size of the reconstruction (L2 ratio)",
}


def write_training_page(folder: Path) -> Path:
    """Write `training.html` into an SAE folder that our trainer left, and return its path.

    Raises:
        MissingFileError: `metrics.jsonl`, `metrics.json`, `config.json` or `run.json` is not there.
        FileFormatError: One of them is not what it should be.
    """
    template = environment().get_template("training.html.j2")
    write_text(folder / PAGE, template.render(_view(folder)))
    return folder / PAGE


def read_log(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of `metrics.jsonl` by split (`train` without one), in the order of their steps, each step once.

    Raises:
        FileFormatError: A line is not a JSON object with a step.
    """
    path = require_file(folder / "metrics.jsonl", "a training log")
    found: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "heldout": {}}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            values = json_of(line)
            found.setdefault(values.get("split", "train"), {})[int(values["step"])] = values
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FileFormatError(
                f"cannot read line {number} of '{path}'", got=line[:80], expected='{"step": …, …}'
            ) from error
    return {split: [lines[step] for step in sorted(lines)] for split, lines in found.items()}


def _read(folder: Path, name: str) -> dict[str, Any]:
    """Read one of the run's JSON files."""
    path = require_file(folder / name, "a training run")
    return read_json(path)


def _view(folder: Path) -> dict[str, Any]:
    """Return everything the template shows."""
    log, result = read_log(folder), _read(folder, "metrics.json")
    config, run = with_current_names(_read(folder, "config.json")), _read(folder, "run.json")
    store = run.get("inputs", {}).get("activations") or {}
    model = PurePath(str(store.get("model") or "an unnamed model")).name
    length = f"{result['steps']:,} steps and {result['trained_tokens']:,} tokens"
    subject = f"{config['arch']}, {result.get('d_sae', 0):,} latents, at {config['hook_point']} of {model}"
    density = result.get("density")
    return {
        "title": f"Training of an SAE: {subject}",
        "kind": "Training of an SAE",
        "subject": folder.absolute().name,
        "finding": _finding(result),
        "lead": f"{subject[0].upper()}{subject[1:]}, after {length}.",
        "tiles": _tiles(result),
        "curves": _curves(log["train"], log["heldout"], config, result),
        "density": Markup(density_bars("density", **density)) if density else None,
        "n_never": density["n_never"] if density else 0,
        "n_tokens": result["n_tokens"],
        "figures": [_figure_row(text, read_interval(result, key)) for key, text in _FIGURES.items()],
        "n_documents": result.get("n_documents"),
        "settings": [(key.replace("_", " "), _plain(value)) for key, value in config.items()],
        "plan": [(key.replace("_", " "), _plain(value)) for key, value in (run.get("plan") or {}).items()],
        "provenance": _provenance(run, store),
    }


def _finding(result: Mapping[str, Any]) -> str:
    """Say how good it became."""
    dead = result["frac_dead"]
    rest = "every latent fires" if dead == 0 else f"{percent(dead)} of the latents never fire"
    return f"{percent(result['fvu'])} of the variance is left with {result['l0']:.3g} latents per token; {rest}."


def _figure_row(text: str, found: Interval) -> tuple[str, str, str]:
    """Return name, value and interval as the table shows them."""
    return text, f"{found.value:.4g}", f"{found.low:.4g} to {found.high:.4g}" if is_number(found.low) else "–"


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, figure and small print of the headline numbers."""
    found = {key: read_interval(result, key) for key in _FIGURES}
    small = {key: f"{i.low:.4g} to {i.high:.4g}" if is_number(i.low) else "" for key, i in found.items()}
    return [
        ("FVU on held-out documents", figure_text(result["fvu"], 4), small["fvu"]),
        ("L0", f"{result['l0']:.3g}", small["l0"]),
        ("Never fire", percent(result["frac_dead"]), f"of {result.get('d_sae', 0):,} latents"),
        ("L2 ratio", figure_text(result["l2_ratio"], 3), small["l2_ratio"]),
        ("Tokens", tokens_text(result["trained_tokens"]), f"{result['steps']:,} steps"),
        ("Tokens a second", f"{result['tokens_per_s']:,.0f}", "in the last session"),
    ]


def _curves(
    train: Sequence[Mapping[str, Any]],
    heldout: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    result: Mapping[str, Any],
) -> list[tuple[str, Markup, str]]:
    """Return title, picture and caption of every quantity that was logged, or measured on held-out documents."""
    names = dict.fromkeys(key for line in train for key in line if key not in _NOT_TERMS)
    final = {**result, "tokens": result["trained_tokens"]}
    found = []
    for name in ("fvu", *names, "l0", "frac_dead", "lr"):
        lines = [line for line in train if is_number(line.get(name))]
        seen = [line for line in (*heldout, final) if is_number(line.get(name))] if name in _FIGURES else []
        if lines or seen:
            curve = _curve(name, lines, seen, config)
            key = name.replace("_", "-")
            title = _TITLES.get(name, name.replace("_", " "))
            is_frac = name == "frac_dead"
            svg = training_curve(key, title, curve, as_percent=is_frac, from_zero=is_frac or name in _FROM_ZERO)
            found.append((title, Markup(svg), _MEANINGS.get(name, "A term of the loss.")))
    return found


def _curve(
    name: str, lines: Sequence[Mapping[str, Any]], seen: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> Curve:
    """Gather one quantity from the log."""
    aims = name == "l0" and config["arch"] != "relu"
    intervals = [read_interval(line, name) for line in seen]
    return Curve(
        tokens=[line["tokens"] for line in lines],
        values=[line[name] for line in lines],
        heldout_tokens=[line["tokens"] for line in seen],
        heldout=[i.value for i in intervals],
        lows=[i.low for i in intervals],
        highs=[i.high for i in intervals],
        reference=float(config["k"]) if aims else None,
        reference_text=f"k{NBSP}= {config['k']}" if aims else "",
    )


def _plain(value: Any) -> str:
    """Return a setting as a reader wants it."""
    if value is None:
        return "by default"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _provenance(run: Mapping[str, Any], store: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the run says about itself and its input."""
    known = [(key, str(run[key])) for key in ("run_id", "started", "ended", "git") if run.get(key)]
    versions = ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items())
    wandb = [("wandb", run["wandb"]["at"])] if run.get("wandb") else []
    device = [("device", str(run["inputs"]["device"]))] if run.get("inputs", {}).get("device") else []
    return [
        *((key.replace("_", " "), value) for key, value in known),
        *device,
        *((f"activations: {key.replace('_', ' ')}", _plain(value)) for key, value in store.items()),
        *wandb,
        ("versions", versions),
    ]
