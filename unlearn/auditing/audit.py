"""One report for one removal request: every evaluation on any pair of models, then the verdict."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.run.notes import note
from sae_train.run.progress import Advance, no_advance
from sae_train.run.runs import now
from unlearn.auditing.attack_results import READINGS
from unlearn.auditing.attacks.languages import not_asked_in
from unlearn.auditing.audit_report import AuditedRequest, AuditReport, Findings
from unlearn.auditing.audit_run import PARTS, run_parts
from unlearn.auditing.compare import Other, compare_models
from unlearn.auditing.context import AuditContext
from unlearn.auditing.depth import depth_of
from unlearn.auditing.evaluations.benchmarks import check_tasks
from unlearn.auditing.evaluations.indistinguishability import too_few_wordings
from unlearn.auditing.policy import AuditPolicy, default_policy
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.auditing.verdict import decide
from unlearn.config import AuditConfig

INSIDE = "indistinguishability"
NEVER_TESTED = ("attackers with more lessons, data or steps than stated here",)


def run_audit(
    before: LanguageModel,
    after: LanguageModel,
    request: Request,
    *,
    config: AuditConfig | None = None,
    policy: AuditPolicy | None = None,
    others: Sequence[Other] = (),
    advance: Advance = no_advance,
) -> AuditReport:
    """Measure what `after` still knows of the named entities, what it lost, what comes back, and decide.

    Any pair of models of one shape will do: labels, templates and names are enough.

    Args:
        before: The original model.
        after: The unlearned one.
        request: Entities, wordings, and what else is at hand.
        config: How to sample.
        policy: Limits of the verdict; the shipped ones by default.
        others: Models to be shown beside `after`; they come first, so that one that does not fit ends the audit early.
        advance: Called with the name of each evaluation and attack before it starts.

    Returns:
        Everything that was found, the verdict and what it rests on.

    Raises:
        ConfigError: An evaluation to skip does not exist, or a task of `lm-eval` cannot be run.
        EntityError: A target cannot be used, a template has no held-out wording, or nothing is left to compare with.
        ShapeError: The models are not a pair.
    """
    started = time.monotonic()
    config, policy = config or AuditConfig(), policy or default_policy()
    check_names(config.skip, "skip")
    check_names(policy.required, "policy key 'required'")
    check_tasks(config.lm_eval)
    context = make_context(before, after, request, config)
    for name, reason in left_out(context).items():
        note(f"{name} is left out, so that there is no `pass`: {reason}")
    beside = compare_models(context, others, own=str(request.facts.get("unlearned", "")), advance=advance)
    found, seconds = run_parts(context, [n for n in PARTS if n not in config.skip], advance)
    verdict, checks = decide(found, policy)
    audited = AuditedRequest(
        forget=tuple(e.name for e in context.forget),
        hook_point=context.hook_point,
        model_hash=weights_hash(before.model),
        unlearned_hash=weights_hash(after.model),
        facts=dict(request.facts),
    )
    return AuditReport(
        **found.parts(),
        created=now(),
        request=audited,
        verdict=verdict,
        checks=tuple(checks),
        depth=depth_of(found),
        compare=beside,
        not_tested=tuple(not_tested(context, found)),
        policy=policy.record(),
        config=asdict(config),
        seconds=time.monotonic() - started,
        seconds_by_part=seconds,
    )


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse what is neither an evaluation nor an attack."""
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"no evaluation or attack '{name}'", got=name, expected=", ".join(PARTS), field=where)


def left_out(context: AuditContext) -> dict[str, str]:
    """Return, by evaluation that cannot be run on these targets, why; known before anything is run."""
    reason = None if INSIDE in context.config.skip else too_few_wordings(context)
    return {} if reason is None else {INSIDE: reason}


def not_tested(context: AuditContext, found: Findings) -> list[str]:
    """Return, for the reader, what this audit did not look at."""
    config = context.config
    lines, reasons = [f"{n}: left out (skip)" for n in PARTS if n in config.skip], left_out(context)
    reasons |= {} if config.leak_draws else {"sampling": "no answers are drawn (leak_draws)"}
    lines += [
        f"{n}: {reasons.get(n, 'nothing to measure it on with these targets')}"
        for n in PARTS
        if n not in found.evaluated and n not in ("sae-fit", "crosscoder", "lm-eval") and n not in config.skip
    ]
    if not context.saes:
        lines.append("the latents and the error term of an SAE: none was given (saes)")
    elif len({s.hook_point for s in context.saes}) == len(context.saes):
        lines.append("a second SAE of another seed at one hook point: one was given (saes)")
    if context.analysis is None:
        lines.append("steering along mined latents: none were given (analysis)")
    if not config.lm_eval:
        lines.append("benchmarks of language models: none was given (lm_eval)")
    if "sampling" in found.attacks:
        lines.append(f"more than {config.leak_draws} answers drawn per question (leak_draws)")
    elif not config.n_samples:
        lines.append("answers drawn at temperature one")
    for name, attack in found.attacks.items():
        lines += [f"questions in the form '{form}'" for form in attack.not_asked or ()]
        not_read = () if attack.relearning is None else attack.relearning.not_read
        lines += [f"{name}, read by {READINGS[sort]}: no held-out wording is of that sort" for sort in not_read]
    return [*lines, not_asked_in(context, "prompts" in found.attacks), *NEVER_TESTED]
