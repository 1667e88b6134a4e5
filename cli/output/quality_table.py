"""What `wb eval-sae` prints: the figures of an SAE, those of the probes of its latents among them."""

from __future__ import annotations

from cli.output.render import emit, note
from features import ProbingReport
from sae_train.quality.evaluation import SaeEvaluation


def show_quality(
    found: SaeEvaluation, probed: ProbingReport | None, title: str, *, text: str | None, as_json: bool
) -> None:
    """Print the figures; what else there is to know goes to stderr."""
    if found.text_held_out is False:
        note(f"{text} is not the text of the store: all its documents are taken, whether the SAE saw them or not")
    emit({**found.summary(), **(probed.summary() if probed else {})}, as_json=as_json, title=title)
