"""`wb demo`: the whole pipeline on the embedded fact world, ending in HTML reports. Needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options

EXAMPLE = "wb demo --out demo"


@click.command(epilog=options.example(EXAMPLE))
@options.out_option("Folder for everything the demo makes.", required=False, default=Path("demo"))
@click.option("--world", type=options.ExistingFolder("a fact world"), help="Another world, built by wb world.")
@options.run_options()
def command(out: Path, seed: int, as_json: bool, config_path: Path | None, **given: Any) -> None:
    """Go from text to an audited, unlearned model on a tiny language model that ships with the package.

    Labels what the model knows, caches activations, trains SAEs, finds the latents of unknown names, makes the
    model forget 20 entities, and audits it. About a minute and a half on two cores.
    """
    from cli.output.demo_table import show_demo
    from unlearn import run_demo
    from unlearn.removals.demo import DemoConfig

    show_demo(run_demo(out, config=DemoConfig(seed=seed), **given), as_json=as_json)
