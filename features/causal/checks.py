"""The causal checks after mining: gate, steering, max-activating examples and logit-lens tokens, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from features.analysis.evidence import collect_evidence, store_windows
from features.analysis.store import LatentAnalysis
from features.causal.gate import n_gate_questions, run_gate
from features.causal.steering import TEXT_CTX, n_steering_questions, run_steering
from features.config import GateConfig, SteeringConfig
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.activations.store import ActivationStore
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Progress, silent
from sae_train.saes.base import Sae
from sae_train.text.tokens import bos_prefix


def add_checks(
    lm: LanguageModel,
    saes: Sequence[Sae],
    labels: Sequence[Entity],
    templates: Templates,
    analysis: LatentAnalysis,
    *,
    store: ActivationStore | None = None,
    gate: GateConfig | None = None,
    steering: SteeringConfig | None = None,
    progress: Progress = silent,
) -> LatentAnalysis:
    """Return the analysis with its evidence, and with what of the gate and steering is asked for.

    Args:
        lm: The model.
        saes: The SAEs, in the analysis' order.
        labels: Labelled entities.
        templates: Questions.
        analysis: What was mined.
        store: Running text, for contexts and for the loss under steering.
        gate, steering: Sizes; None leaves the check out.
        progress: Shows how far each check is.
    """
    evidence = collect_evidence(lm, saes, [f.selected for f in analysis.hook_points], store)
    analysis = replace(analysis, evidence=evidence)
    if gate is not None:
        with progress("patching names", n_gate_questions(analysis, gate), unit="questions") as advance:
            found = run_gate(lm, saes, labels, templates, analysis, gate, advance=advance)
        analysis = replace(analysis, gate=found)
    if steering is not None:
        prefix, n = bos_prefix(lm.tokenizer), steering.n_windows
        windows = (
            [] if store is None else store_windows(store, prefix, n_windows=n, ctx_len=TEXT_CTX, seed=steering.seed)
        )
        with progress("steering", n_steering_questions(analysis, steering), unit="questions") as advance:
            curves = run_steering(lm, labels, templates, analysis, steering, windows=windows, advance=advance)
        analysis = replace(analysis, steering=curves)
    return analysis


def gate_line(analysis: LatentAnalysis) -> str:
    """Say in one line what the gate found."""
    gate = analysis.gate
    if gate is None:
        return "gate: not run"
    if gate.recommended is not None:
        found = gate.at(gate.recommended)
        assert found is not None
        return (
            f"gate: passed at {gate.recommended}: another entity's activation takes {found.passing.value:.0%} of the "
            f"recall, all latents at the unknown level {found.frac_taken('latents').value:.0%} of that"
        )
    reasons = "; ".join(f"{h.hook_point}: {h.reasons[0]}" for h in gate.hook_points)
    return f"gate: not passed. {reasons}"
