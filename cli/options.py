"""Options that several commands share, one decorator each, and the conversion of their values.

Importing this module imports no torch, so neither does `wb NAME --help`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from cli.config_file import load_config
from cli.field_options import config_options
from cli.param_types import Device, ExistingFile, ExistingFolder, ModelSpec
from cli.usage import COMPUTED_ROWS, refuse_own_input
from sae_train.config import SPREADS, CacheConfig, SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.text_files import lines_of, read_text

# Commands import this one module; the types are part of what it offers.
__all__ = ["Device", "ExistingFile", "ExistingFolder", "ModelSpec", "config_options"]

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


def example(*lines: str) -> str:
    r"""Return the epilog of a command: its example, to be run as it stands.

    The examples of all commands, in the order of the table in `cli/group.py`, run one after the other in an
    empty folder: each may use what the earlier ones wrote.

    Example:
        >>> example("wb inspect acts.h5")
        '\x08\nExample:\n  wb inspect acts.h5'
    """
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def option_list(*added: Decorator[Any]) -> Decorator[Any]:
    """Return one decorator that adds several options, shown by `--help` in the order given."""

    def add(command: Any) -> Any:
        for option in reversed(added):
            command = option(command)
        return command

    return add


def config_option(command: F) -> F:
    """Add `--config FILE.toml`: any option from a file; the command line wins."""
    return click.option(
        "--config",
        "config_path",
        type=ExistingFile("a configuration"),
        is_eager=True,
        callback=load_config,
        metavar="FILE.toml",
        help="Take options from a file; the command line wins.",
    )(command)


def json_option(command: F) -> F:
    """Add `--json`, received as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(command)


def common_options(command: F) -> F:
    """Add what every command has: `--json` and `--config`; and keep its inputs from being replaced by its output."""

    @wraps(command)
    def checked(*args: Any, **given: Any) -> Any:
        refuse_own_input(given)
        return command(*args, **given)

    return json_option(config_option(cast(F, checked)))


def out_option(help: str, *, required: bool = True, default: Path | None = None) -> Decorator[Any]:
    """Return `--out`: where the result goes; `claim_output` decides whether it may."""
    given = {} if default is None else {"default": default, "show_default": True}  # a None given counts as a value
    return click.option("--out", type=click.Path(path_type=Path), required=required, help=help, **given)


def overwrite_option(command: F) -> F:
    """Add `--overwrite`."""
    return click.option("--overwrite", is_flag=True, help="Replace an output that is there already.")(command)


def resume_option(command: F) -> F:
    """Add `--resume`."""
    return click.option("--resume", is_flag=True, help="Continue an interrupted run where it stopped.")(command)


def wandb_option(command: F) -> F:
    """Add `--wandb [PROJECT]`, received as `wandb`: None, or a project."""
    return click.option(
        "--wandb",
        is_flag=False,
        flag_value="sae-workbench",
        default=None,
        metavar="[PROJECT]",
        help="Log to Weights & Biases too, as project sae-workbench if none is named. WANDB_MODE=offline works.",
    )(command)


def seed_option(default: int = 0, *, multiple: bool = False) -> Decorator[Any]:
    """Return `--seed`; where repeatable it is received as a tuple."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=(default,) if multiple else default,
        multiple=multiple,
        show_default=True,
        help="Seed of everything random." + (" Repeatable." if multiple else ""),
    )


def device_option(command: F) -> F:
    """Add `--device`."""
    return click.option(
        "--device",
        type=Device(),
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:N]|mps",
        help="Device on which everything is computed.",
    )(command)


def run_options(*, resume: bool = False, wandb: bool = False, several_seeds: bool = False) -> Decorator[Any]:
    """Return what every run has: `--wandb`, `--seed`, `--device`, `--overwrite`, `--resume`, `--json`, `--config`.

    Args:
        resume: An interrupted run can be continued.
        wandb: It can be logged to Weights & Biases.
        several_seeds: `--seed` is repeatable.
    """
    first = [wandb_option] if wandb else []
    last = [resume_option, common_options] if resume else [common_options]
    return option_list(*first, seed_option(multiple=several_seeds), device_option, overwrite_option, *last)


def lm_dtype_option(*dtypes: str) -> Decorator[Any]:
    """Return `--lm-dtype`, one of these formats."""
    return click.option(
        "--lm-dtype",
        type=click.Choice(dtypes),
        default="float32",
        show_default=True,
        help="Number format the language model computes in.",
    )


def model_option(*, required: bool = True, help: str | None = None) -> Decorator[Any]:
    """Return `--model`."""
    return click.option(
        "--model",
        type=ModelSpec(),
        required=required,
        metavar="MODEL",
        help=help or "Language model: hub id, Hugging Face folder, .gguf file, or fact-world.",
    )


def text_option(*, required: bool = True, help: str | None = None) -> Decorator[Any]:
    """Return `--text` as typed: what is no file may be a dataset on the hub, or `fact-world`."""
    return click.option(
        "--text",
        required=required,
        metavar="TEXT",
        help=help or "Text: .txt, .jsonl (field text), .parquet, a hub dataset id, or fact-world.",
    )


def spread_option(command: F) -> F:
    """Add `--spread`."""
    return click.option(
        "--spread",
        type=click.Choice(SPREADS),
        default="auto",
        show_default=True,
        help="What processes started by torchrun divide: whole SAEs, or each batch; auto: SAEs where there are enough.",
    )(command)


def hook_point_option(*, multiple: bool = False, required: bool = True) -> Decorator[Any]:
    """Return `--hook-point`, received as `hook_point` or, where repeatable, as the tuple `hook_points`."""
    return click.option(
        "--hook-point",
        "hook_points" if multiple else "hook_point",
        multiple=multiple,
        required=required,
        metavar="NAME",
        help="Place in the model, as in layers.4 or layers.4.mlp." + (" Repeatable." if multiple else ""),
    )


def sae_option(*, multiple: bool = False, required: bool = True, also: str = "") -> Decorator[Any]:
    """Return `--sae`, received as `sae` or, where repeatable, as the tuple `saes`; `also` is what else may be given."""
    return click.option(
        "--sae",
        "saes" if multiple else "sae",
        type=ExistingFolder("an SAE"),
        multiple=multiple,
        required=required,
        help=f"Folder of a trained SAE{also}." + (" Repeatable." if multiple else ""),
    )


def file_option(name: str, what: str, *, world: str | None = None, required: bool = True) -> Decorator[Any]:
    """Return an option for an input file, such as `--labels`.

    Args:
        name: The option: `--labels`.
        what: What it holds, for its help and its error message: "labelled entities (JSON lines)".
        world: Which part of a world its name (`fact-world`) stands for: `entities` or `templates`.
        required: Whether the command needs it.
    """
    note = ", or fact-world" if world else ""
    return click.option(
        name,
        type=ExistingFile(what, world_file=world),
        required=required,
        help=f"{what[:1].upper()}{what[1:]}{note}.",
    )


def activations_option(command: F) -> F:
    """Add `--activations`; `usage.store_source` makes one thing of them."""
    return _activations_option(required=True)(command)


def _activations_option(*, required: bool) -> Decorator[Any]:
    """Return `--activations`, which may name several stores, and remote ones."""
    return click.option(
        "--activations",
        type=ExistingFile("activations (HDF5 store)", may_be_remote=True),
        multiple=True,
        required=required,
        help="Activations (HDF5 store): a file, or an address such as s3://bucket/acts.h5; repeat for several.",
    )


def other_option(command: F) -> F:
    """Add `--other`: the same rows of another model."""
    what = "the same rows of another model, as after unlearning (HDF5 store), for a crosscoder"
    return file_option("--other", what, required=False)(command)


def rows_options(command: F) -> F:
    """Add where the rows that an SAE is trained on come from; `usage.rows_of` makes them."""
    return option_list(
        _activations_option(required=False),
        other_option,
        model_option(
            required=False, help="Language model whose activations are computed as they are needed, without a store."
        ),
        text_option(required=False, help="Text that it reads: .txt, .jsonl, .parquet, a hub id, or fact-world."),
        config_options(CacheConfig, only=COMPUTED_ROWS),
        lm_dtype_option("bfloat16", "float16", "float32"),
    )(command)


def sae_train_options(command: F) -> F:
    """Add the settings of the training of an SAE; `--hook-point` and `--seed` are shared with other commands."""
    names = {
        "matryoshka_prefixes": "--matryoshka-prefix",
        "matryoshka_weights": "--matryoshka-weight",
        "hierarchical_shares": "--hierarchical-share",
    }
    without, several = ("hook_point", "seed"), ("k", "expansion")
    return config_options(SaeTrainConfig, names=names, without=without, repeatable=several)(command)


def labels_option(command: F) -> F:
    """Add `--labels`."""
    return file_option("--labels", "labelled entities (JSON lines)")(command)


def latents_option(command: F) -> F:
    """Add `--latents`."""
    return file_option("--latents", "mined latents (HDF5)")(command)


def templates_option(command: F) -> F:
    """Add `--templates`."""
    return file_option("--templates", "prompt templates (JSON)", world="templates")(command)


ledger_option = click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE", help="The ledger."
)


def forget_options(command: F) -> F:
    """Add `--forget` (repeatable, received as the tuple `forget`) and `--forget-file`."""
    add_file = file_option("--forget-file", "names to forget, one per line", required=False)
    add_name = click.option("--forget", multiple=True, metavar="NAME", help="Name of an entity to forget. Repeatable.")
    return add_name(add_file(command))


def check_audited(
    unlearned: str | None,
    ledger: Path | None,
    forget: tuple[str, ...],
    forget_file: Path | None,
    compare: tuple[str, ...],
) -> None:
    """Refuse an audit of nothing, and options of one request beside a ledger, which has requests of its own.

    Raises:
        ConfigError: Neither a model nor a ledger, or both a ledger and a request.
    """
    if ledger is None and unlearned is None:
        raise ConfigError("which model is to be audited?", got="no --unlearned", expected="--unlearned, or --ledger")
    names = (*forget, *([] if forget_file is None else [str(forget_file)]))
    if ledger is not None and names:
        raise ConfigError("the names are those of the ledger", got=f"{names[0]} with --ledger", expected="no --forget")
    if ledger is not None and compare:
        raise ConfigError(
            "one request at a time is compared", got=f"--compare {compare[0]} with --ledger", expected="--forget"
        )


def forget_names(forget: tuple[str, ...], forget_file: Path | None) -> tuple[str, ...]:
    """Return the names of `--forget` and `--forget-file` together, each once, in the order given.

    Raises:
        ConfigError: There is none.
        FileFormatError: The file is not text.

    Example:
        >>> forget_names(("Mira Tolvan", "Osk", "Mira Tolvan"), None)
        ('Mira Tolvan', 'Osk')
    """
    lines = lines_of(read_text(forget_file, field="forget_file")) if forget_file is not None else []
    names = tuple(dict.fromkeys([*forget, *(line.strip() for line in lines if line.strip())]))
    if not names:
        raise ConfigError("nothing to forget", got="no names", expected="at least one", try_='--forget "NAME"')
    return names
