"""The options that only `wb audit` has: unlearned and other models, sampling, judging. Imports no torch."""

from __future__ import annotations

import click

from cli import options
from unlearn.config import AuditConfig

model_options = options.option_list(
    click.option(
        "--unlearned",
        type=options.ModelSpec(),
        metavar="MODEL",
        help="Model after: a folder, .gguf file or hub id.",
    ),
    click.option(
        "--compare",
        type=options.ModelSpec(),
        multiple=True,
        metavar="MODEL",
        help="Another unlearned model, a baseline: measured and shown beside it. Repeatable.",
    ),
    options.file_option("--ledger", "removals, all to be audited again on the newest model", required=False),
)
audit_options = options.option_list(
    click.option("--hook-point", metavar="NAME", help="Where the known-unknown probe reads; by default as recorded."),
    options.file_option("--policy", "limits of the verdict (TOML); the shipped ones by default", required=False),
    click.option("--quick", is_flag=True, help="Fewer draws, one relearning run, fewer targets attacked."),
    options.config_options(
        AuditConfig, without=("seed",), names={"attack_steps": "--attack-step", "attack_lrs": "--attack-lr"}
    ),
)
