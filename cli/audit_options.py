"""Options of `wb audit`: one per field of the config."""

from __future__ import annotations

from cli import options
from unlearn.config import AuditConfig

OPTIONS = [
    options.field_option(AuditConfig, "n_neighbours", type=int, help="Neighbours per target."),
    options.field_option(AuditConfig, "max_retain", type=int, help="Other known entities asked; all by default."),
    options.field_option(AuditConfig, "n_candidates", type=int, help="Candidates among which the truth is ranked."),
    options.field_option(AuditConfig, "max_blocks", type=int, help="Blocks at which activations are compared."),
    options.field_option(AuditConfig, "control_draws", type=int, help="Never-known groups for the control range."),
    options.field_option(AuditConfig, "permutations", type=int, help="Permutations of the two-sample test."),
    options.field_option(AuditConfig, "n_samples", type=int, help="Answers drawn per question at temperature one."),
    options.field_option(AuditConfig, "max_attacked", type=int, help="Targets that are attacked."),
    options.field_option(AuditConfig, "max_wordings", type=int, help="Held-out wordings asked under attack."),
    options.field_option(
        AuditConfig,
        "attack_steps",
        type=int,
        name="--attack-step",
        multiple=True,
        help="Steps of relearning. Repeatable.",
    ),
    options.field_option(
        AuditConfig, "attack_lrs", type=float, name="--attack-lr", multiple=True, help="Its step sizes. Repeatable."
    ),
    options.field_option(
        AuditConfig,
        "lm_eval",
        name="--lm-eval",
        multiple=True,
        metavar="TASK",
        help="Task of lm-eval: a name, or a task file (.yaml). Repeatable.",
    ),
    options.field_option(AuditConfig, "lm_eval_limit", type=int, help="Examples of each of them; all by default."),
    options.field_option(
        AuditConfig,
        "skip",
        name="--skip",
        multiple=True,
        metavar="NAME",
        help="Evaluation or attack to leave out. Repeatable.",
    ),
]

audit_options = options.option_list(*OPTIONS)
