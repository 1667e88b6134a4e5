"""The options that only `wb audit` has: unlearned and other models, sampling, judging. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from unlearn.auditing import shipped_policy
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


class PolicyFile(options.ExistingFile):
    """A file with limits of the verdict, or the name of one that is shipped."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path.

        Raises:
            MissingFileError: There is no such file, nor one of that name.
        """
        return Path(super().convert(shipped_policy(Path(value)), param, ctx))


audit_options = options.option_list(
    click.option("--hook-point", metavar="NAME", help="Where the known-unknown probe reads; by default as recorded."),
    click.option(
        "--policy",
        type=PolicyFile("limits of the verdict (TOML)"),
        metavar="FILE",
        help="Limits of the verdict: a TOML file, or default-v3, coarser inside; default-v4 by default.",
    ),
    click.option("--quick", is_flag=True, help="Fewer draws, one relearning run, fewer targets attacked."),
    options.config_options(
        AuditConfig, without=("seed",), names={"attack_steps": "--attack-step", "attack_lrs": "--attack-lr"}
    ),
)
