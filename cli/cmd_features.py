"""`wb features`: a browser of all latents of an SAE, made in one pass over cached activations; it opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from features.config import BrowseConfig


@click.command(epilog=options.example("wb features sae --activations acts.h5 --model fact-world --out browser"))
@click.argument("sae", type=options.ExistingFolder("an SAE"))
@options.file_option("--activations", "activations (HDF5 store); not for files of SAEDashboard", required=False)
@options.model_option(required=False, help="Model: gives tokens their text, and the tokens that latents promote.")
@click.option(
    "--other", type=options.ExistingFolder("an SAE"), help="Another SAE of the same place: each latent's twin."
)
@options.file_option("--answers", "explanations, and answers to the tasks that test them (JSON)", required=False)
@click.option("--export", is_flag=True, help="Also write the latents as SAEDashboard does, for Neuronpedia.")
@options.out_option("Folder of the page; open index.html in it.")
@options.config_options(BrowseConfig, without=("seed",))
@options.run_options()
def command(
    sae: Path,
    activations: Path | None,
    model: str | None,
    out: Path,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Make a browser of all latents: what each fires on, how often, how strongly, and what it is related to.

    Per latent: the strongest examples and random ones by strength, with shaded tokens; a histogram; the firing rate;
    the nearest decoder rows; latents that fire together with it. With --model also the text of tokens and the logit
    lens, with --other the twin in another SAE. The page is searched by text, number or list.

    SAE may also be a folder with batch-0.json, … of SAEDashboard, whose latents are then shown in the same way.

    With --n-explained requests for explanations are written to explain.json, for a language model or a person; the
    answers come back with --answers, are shown, and can be tested (docs/concepts/browser.md).
    """
    from cli.output.render import emit, note
    from features import browse
    from features.browsing.neuronpedia_import import ImportedBatches

    named = {name: given.pop(name) for name in ("other", "answers", "export", "device", "overwrite")}
    if activations is None:
        found = ImportedBatches(sae)
        found.save(out, overwrite=named["overwrite"])
    else:
        found = browse(sae, activations, lm=model, out=out, config=BrowseConfig(**given), **named)
    note(f"page: {out / 'index.html'}")
    emit({"out": str(out), **found.summary()}, as_json=as_json, title=f"Latents of {sae}")
