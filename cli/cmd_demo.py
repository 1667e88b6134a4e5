"""`wb demo`: the whole story on the embedded world, ending in an HTML report; no network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cli import options

EXAMPLE = "wb demo --out demo"


@click.command(epilog=options.example(EXAMPLE))
@options.out_option("Folder for everything the demo makes.", required=False, default=Path("demo"))
@click.option("--world", type=options.ExistingFolder("a fact world"), help="Another world, built by wb world.")
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.common_options
def command(
    out: Path,
    world: Path | None,
    seed: int,
    device: str,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Go from text to an audited, unlearned model on a tiny language model that ships with the package.

    Labels what the model knows, caches activations, trains SAEs, finds the latents of unknown names, makes the
    model forget 20 entities, and audits it. About two minutes on two cores.
    """
    from features.factworld import shipped_world
    from sae_train.runs import claim_output, clear_output
    from unlearn.demo import DemoConfig, run_demo

    claim_output(out, overwrite=overwrite)
    clear_output(out, overwrite=overwrite)
    summary = run_demo(world or shipped_world(), out, DemoConfig(seed=seed), _stage, device=device)
    _print(summary, as_json)


@contextmanager
def _stage(description: str, total: float | None = None, *, unit: str = "") -> Iterator[Any]:
    """Show the progress of a station, and what it took."""
    from cli.render import note
    from sae_train.progress import shown

    started = time.monotonic()
    with shown(description, total, unit=unit) as advance:
        yield advance
    note(f"{description}: {time.monotonic() - started:.1f} s")


def _print(summary: dict[str, Any], as_json: bool) -> None:
    """Print the figures before and after, and where the pages are."""
    from cli.render import emit

    s = summary
    rise = s["loss_after"] / s["loss_before"] - 1
    rows = [
        ("targets: questions answered rightly", f"{s['recall_before']:.1%}", f"{s['recall_after']:.1%}"),
        ("targets: truth ranked first", "", f"{s['ranking_after']:.1%} (chance {s['ranking_chance']:.1%})"),
        (
            "neighbours: questions answered rightly",
            f"{s['neighbours_before']:.1%}",
            f"{s['neighbours_after']:.1%}",
        ),
        ("other known entities", f"{s['retain_before']:.1%}", f"{s['retain_after']:.1%}"),
        ("known entities that no training retained", f"{s['untouched_before']:.1%}", f"{s['untouched_after']:.1%}"),
        ("general-text loss", f"{s['loss_before']:.4f}", f"{s['loss_after']:.4f} ({rise:+.2%})"),
        (
            "fresh classifier AUROC, targets against unknown",
            f"{s['auroc_before']:.2f}",
            f"{s['auroc_after']:.2f}",
        ),
        ("targets called unknown by the old probe", "", f"{s['called_unknown']:.1%}"),
        ("recall with the old activation put back", "", f"{s['steer_back_recall']:.1%}"),
        ("verdict", "", s["verdict"]),
        ("SAE", "", f"{s['hook_point']}, FVU {s['fvu']:.3f}, L0 {s['l0']:.0f}, dead {s['frac_dead']:.1%}"),
        ("latents found (known, unknown)", "", f"{s['latents_known']}, {s['latents_unknown']}"),
        ("seconds", "", f"{s['seconds']:.0f}"),
        ("page of the latents", "", s["latents_page"]),
        ("page of the audit", "", s["audit_page"]),
    ]
    title = f"{s['n_targets']} entities forgotten in a world of {s['known']} known ones"
    emit(summary, as_json=as_json, title=title, rows=rows, columns=("", "before", "after"))
