"""What `wb unlearn` prints: the figures of a removal, or of one that was only planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.output.render import emit

if TYPE_CHECKING:
    from unlearn.finetuning.step_plan import StepPlan


def show_plan(plan: StepPlan, *, as_json: bool) -> None:
    """Print a plan."""
    rows = [
        ("steps", f"{plan.steps:,}"),
        ("seconds", f"{plan.seconds:,.0f}"),
        ("peak memory, MiB", f"{plan.memory_bytes / 2**20:,.0f}"),
        ("the model's weights, MiB", f"{plan.weights_bytes / 2**20:,.0f}"),
        ("peak memory / weights", f"{plan.in_weights:.2f}"),
        ("numbers trained", f"{plan.trained:,}"),
    ]
    found = {**asdict(plan), "in_weights": plan.in_weights}
    emit(found, as_json=as_json, title="Plan: nothing was done", rows=rows)


def show_forgotten(result: dict[str, Any], names: Sequence[str], *, as_json: bool) -> None:
    """Print the result of a removal."""
    more = " …" if len(names) > 5 else ""
    emit(result, as_json=as_json, title=f"Forgotten: {', '.join(names[:5])}{more}")
