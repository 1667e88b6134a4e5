"""The click group `wb`: the table of commands, each imported only when it is called.

`wb --help` reads the table and imports nothing heavy; `wb NAME …` imports `cli.cmd_<name>` and takes its
attribute `command`. Adding a command is one line here and one file.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from sae_train.errors import ConfigError, WorkbenchError, nearest_first

COMMANDS: dict[str, str] = {
    "demo": "Run the whole story on the embedded world and write a report.",
    "remove": "Make a model forget a name, from the name to an audited model.",
    "world": "Build a fact world: a tiny language model that knows made-up entities.",
    "cache-activations": "Run a language model over text and keep its activations.",
    "inspect": "Show what is in a workbench file: contents, statistics, integrity.",
    "train-sae": "Train a sparse autoencoder on cached activations.",
    "eval-sae": "Measure the quality of a sparse autoencoder.",
    "import-sae": "Turn a sparse autoencoder of another library into one of ours.",
    "push": "Send a sparse autoencoder to the Hugging Face hub, with a card.",
    "compare-saes": "Show which latents two sparse autoencoders share.",
    "features": "Browse all latents of a sparse autoencoder, in a page that opens from disk.",
    "import-entities": "Turn the files of another benchmark into entities, templates, a forget list.",
    "label-entities": "Label entities known or unknown by the model's own answers.",
    "find-entity-latents": "Find latents that separate known from unknown entities.",
    "unlearn": "Make a model not know an entity any more.",
    "audit": "Measure what an unlearned model still knows, and what it lost.",
    "tofu-metrics": "Measure a model as the TOFU benchmark does.",
    "doctor": "Look at this machine: versions, devices, and what will be slow on it, and why.",
    "cache": "Show or remove what was converted once and is kept on this machine.",
    "ledger": "Keep the chain of removals: add, verify, show, rollback.",
}

HELP_NAMES = ["-h", "--help"]


class LazyGroup(click.Group):
    """A group whose commands are known by name and short help, and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order one uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is no such command."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named by the first word.

        Raises:
            ConfigError: There is none; the nearest names are listed.
        """
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise ConfigError(
                f"no command '{args[0]}'",
                got=args[0],
                expected=nearest_first(args[0], COMMANDS),
                try_="wb --help",
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it raises names fields, and says them here as the command's options."""
        try:
            return super().invoke(ctx)
        except WorkbenchError as error:
            if ctx.invoked_subcommand in COMMANDS:
                from cli.error_form import option_namer

                error.name_of = option_namer(load_command(ctx.invoked_subcommand))
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def load_command(name: str) -> click.Command:
    """Import the module of a command and return its click command."""
    module = importlib.import_module(f"cli.cmd_{name.replace('-', '_')}")
    command = module.command
    assert isinstance(command, click.Command), f"{module.__name__}.command is {command!r}"
    command.name = name
    # click makes a command's help option once, with the names of the first context: each has them of its own.
    for each in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        each.context_settings["help_option_names"] = HELP_NAMES
    return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": HELP_NAMES, "max_content_width": 110},
    epilog="Every command explains itself: wb train-sae --help. Results go to stdout, progress to stderr.",
)
@click.version_option(package_name="sae-workbench", prog_name="wb")
def wb() -> None:
    """Train sparse autoencoders on cached activations, find the latents that know an entity, unlearn it.

    \b
    Start with the whole story on an embedded tiny model, no network needed:
      wb demo --out demo
    """


def leaf_commands() -> list[tuple[str, click.Command]]:
    """Return every command that does something, by all its words: `ledger add` in the place of `ledger`."""
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = load_command(name)
        if isinstance(command, click.Group):
            found += [(f"{name} {word}", child) for word, child in command.commands.items()]
        else:
            found.append((name, command))
    return found
