"""`wb push`: send an SAE folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import PushConfig


@click.command(epilog=options.example("wb push sae someone/fact-world-saes --plan"))
@click.argument("sae", type=options.ExistingFolder("an SAE"))
@click.argument("repo_id")
@options.config_options(PushConfig)
@click.option("--plan", is_flag=True, help="Print the files and the card that would be sent; send nothing.")
@options.common_options
def command(sae: Path, repo_id: str, plan: bool, as_json: bool, config_path: Path | None, **given: Any) -> None:
    """Send the folder SAE to the repository REPO_ID (owner/name) of the Hugging Face hub.

    It goes there in one commit: weights, configs, figures, and a card made of them. SAELens loads it from there, and
    `wb import-sae owner/name:folder` does. The token is the one of `hf auth login`, or the variable HF_TOKEN.
    """
    from cli.output.render import emit, note
    from sae_train.sharing.push import plan_push, send

    upload = plan_push(sae, repo_id, **given)
    found = {
        "repo_id": repo_id,
        "path_in_repo": upload.path_in_repo,
        "files": sorted(upload.files),
        "bytes": upload.n_bytes,
        "commit": None if plan else send(upload),
    }
    if plan:
        note(upload.card)
    rows = [("file" if key == "files" else key, v) for key in found for v in _each(found[key])]
    emit(found, as_json=as_json, title=f"{'Would send' if plan else 'Sent'} {sae}", rows=rows)


def _each(value: Any) -> list[Any]:
    """Return the values of one row of the table each."""
    return value if isinstance(value, list) else [] if value is None else [value]
