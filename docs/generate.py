"""Write the generated parts of the documentation: commands, options, settings, the map of the source, the API's names.

    python docs/generate.py             rewrite what stands between the markers
    python docs/generate.py --check     only say which files are not up to date; exit code 1 if any
    python docs/generate.py --examples  print the examples of all help texts, ready for a shell

A generated part stands between `<!-- name -->` and `<!-- /name -->` in README.md or a page of docs/.
Run it from the environment the workbench is installed in.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import click

from cli.group import COMMANDS, HELP_NAMES, load_command, wb
from sae_train.fields import described
from unlearn.config import UnlearnConfig
from unlearn.settings.registry import METHOD_SETTINGS

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("sae_train", "features", "unlearn", "cli")
HELP_WIDTH = 100


def command_table() -> str:
    """Return a Markdown table: each command and what it does."""
    lines = ["| command | what it does |", "|---|---|"]
    return "\n".join([*lines, *(f"| [`wb {n}`](reference/commands.md#wb-{n}) | {h} |" for n, h in COMMANDS.items())])


def command_help() -> str:
    """Return what `wb` and each command do, with a table of its options, each under its own heading."""
    return "\n\n".join([_section("wb", _help_text(wb, None)), *(_command_section(name) for name in COMMANDS)])


def _command_section(name: str) -> str:
    """Return the heading, help text and options of one command."""
    command, parent = load_command(name), click.Context(wb, info_name="wb")
    if not isinstance(command, click.Group):
        return _explained(f"wb {name}", command, parent)
    inside = click.Context(command, info_name=name, parent=parent)
    children = [_explained(f"wb {name} {word}", child, inside) for word, child in command.commands.items()]
    return "\n\n".join([_section(f"wb {name}", _help_text(command, parent)), *children])


def _explained(heading: str, command: click.Command, parent: click.Context) -> str:
    """Return what a command does, its example and the table of its options."""
    context = click.Context(command, info_name=command.name, parent=parent, help_option_names=HELP_NAMES)
    formatter = click.HelpFormatter(width=HELP_WIDTH)
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    command.format_epilog(context, formatter)
    text = "\n".join(line.rstrip() for line in formatter.getvalue().splitlines())
    rows = [_option_row(p, context) for p in command.get_params(context) if isinstance(p, click.Option)]
    return f"{_section(heading, text)}\n\n{_table(('option', 'default', 'range', 'meaning'), rows)}"


def _option_row(option: click.Option, context: click.Context) -> tuple[str, ...]:
    """Return an option as a row: how it is written, its default, its range, what it does."""
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} is hidden"
    extra = option.get_help_extra(context)
    default = "required" if "required" in extra else extra.get("default", "")
    return f"`{record[0]}`", default, extra.get("range", ""), option.help or ""


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(columns)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])


def method_settings() -> str:
    """Return the settings of every unlearning method: defaults that differ from the shared ones, and its own."""
    return "\n\n".join(_method_section(method) for method in METHOD_SETTINGS)


def _method_section(method: str) -> str:
    """Return the settings of one method."""
    kind = METHOD_SETTINGS[method]
    shared = {name: spec.default for name, spec in described(UnlearnConfig).items()}
    rate = {} if kind().edits_weights else {"lr": f"{kind.lr:g} * 96 / width"}  # a closed form takes no steps
    values = {**rate, **{k: v for k, v in kind.shared.items() if v != shared[k]}}
    defaults = ", ".join(f"`{name}` {value}" for name, value in values.items())
    rows = [
        (f"`{s.name}`", str(s.default).lower() if s.type is bool else str(s.default), s.rule, s.sentence)
        for s in described(kind).values()
    ]
    table = _table(("setting", "default", "value", "meaning"), rows) if rows else "No settings of its own."
    return f"### `{method}`\n\nDefaults of its own: {defaults}.\n\n{table}"


def _help_text(command: click.Command, parent: click.Context | None) -> str:
    """Return what `--help` prints at a fixed width."""
    name = command.name if parent is not None else "wb"
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=HELP_WIDTH, help_option_names=HELP_NAMES
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def _section(heading: str, text: str) -> str:
    """Return a heading with a text block below."""
    return f"## {heading}\n\n```text\n{text}\n```"


def file_tree() -> str:
    """Return the source tree, one line per module: its name and the first sentence of its docstring."""
    return "\n".join(["```text", *(line for floor in FLOORS for line in _tree_lines(ROOT / floor, 0)), "```"])


def _tree_lines(folder: Path, depth: int) -> Iterator[str]:
    """Yield the line of a folder, then those of its modules and of its subfolders."""
    yield _tree_line(f"{folder.name}/", _first_sentence(folder / "__init__.py"), depth)
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield _tree_line(module.name, _first_sentence(module), depth + 1)
    for child in sorted(p for p in folder.iterdir() if (p / "__init__.py").exists()):
        yield from _tree_lines(child, depth + 1)


def _tree_line(name: str, text: str, depth: int) -> str:
    """Return one aligned line."""
    return f"{'  ' * depth + name:<30} {text}".rstrip()


def _first_sentence(module: Path) -> str:
    """Return the first sentence of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return re.split(r"\.(?:\s|$)", " ".join(docstring.split("\n\n")[0].split()), maxsplit=1)[0]


def api_entries(floor: str) -> str:
    """Return one entry of the API reference for each name that a floor exports, in the order of its `__all__`.

    The front doors are lazy (`__getattr__`), and mkdocstrings reads source files without running them, so it cannot
    follow a lazy name. Each is looked up here, and written as the module that defines it has it.
    """
    package = importlib.import_module(floor)
    return "\n".join(f"\n::: {defined_at(package, name)}\n" for name in getattr(package, "__all__", ()))


def defined_at(package: ModuleType, name: str) -> str:
    """Return where a function or class that a package exports is defined, as in `module.name`."""
    thing = getattr(package, name)
    place = f"{thing.__module__}.{thing.__qualname__}"
    assert place.startswith(f"{package.__name__}."), f"{package.__name__} exports {name}, which is {place}"
    return place


def architecture_table() -> str:
    """Return a Markdown table: each architecture tried and what works on it; from the facts that the tests verify."""
    rows = json.loads((ROOT / "docs" / "reference" / "architectures.json").read_text(encoding="utf-8"))
    lines = [
        "| class | hook points `.self_attn`, `.mlp` | in front of the unembedding | MLP writes by | and arrives |"
        " `--train down_proj` | closed form | answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "refused" not in row:
            wide = ", beside attention" if row["is_parallel"] else ""
            cells = [
                f"{row['attention']}, {row['mlp']}",
                ", ".join(f"`{n}`" for n in row["readout"]) or "nothing",
                ", ".join(f"`{n}`" for n in row["writing"]) or "-",
                (", ".join(row["writes"]) or "-") + wide,
                "yes" if row["down_proj"] else "refused",
                {"every block": "yes", "none": "refused"}.get(row["closed_form"], row["closed_form"]),
                {"cache": "from the cache", "read again": "all read again"}[row["answers"]],
            ]
            lines.append(f"| {row['class']} (`{row['tiny']}`) | " + " | ".join(cells) + " |")
    lines += ["", "Refused when loaded:", "", "| class | why |", "|---|---|"]
    lines += [f"| {row['class']} (`{row['tiny']}`) | {row['refused']} |" for row in rows if "refused" in row]
    return "\n".join(lines)


def station_table() -> str:
    """Return a Markdown table: every station on each architecture; of a refusal the reason, as it was measured."""
    rows = json.loads((ROOT / "docs" / "reference" / "stations.json").read_text(encoding="utf-8"))
    columns = {
        "full": "`unlearn`, all weights",
        "down_proj": "`--train down_proj`",
        "lora": "`--train lora`",
        "closed_form": "closed form",
        "audit": "audit, every attack",
    }
    cells = [(f"{row['class']} (`{row['tiny']}`)", "works", *(_station(row[name]) for name in columns)) for row in rows]
    return _table(("class", "cache, train, label, mine", *columns.values()), cells)


def _station(outcome: str) -> str:
    """Return what one station came to."""
    return outcome if outcome == "works" else f"refused: {outcome}"


PARTS: dict[str, Callable[[], str]] = {
    "commands": command_table,
    "help": command_help,
    "settings": method_settings,
    "tree": file_tree,
    "architectures": architecture_table,
    "stations": station_table,
    **{f"api {floor}": partial(api_entries, floor) for floor in FLOORS if floor != "cli"},
}


def rendered(text: str) -> str:
    """Return a page with its generated parts renewed."""
    for name, render in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = f"{head}{begin}\n{render()}\n{end}{rest.split(end, 1)[1]}"
    return text


def outdated_pages() -> dict[Path, str]:
    """Return the pages whose generated parts are not what the program says, with what they should be."""
    pages = {
        path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    }
    return {path: new for path, text in pages.items() if (new := rendered(text)) != text}


def help_examples() -> list[str]:
    """Return the example of each command's help, in the order of the table, line continuations joined."""
    return [line for name in COMMANDS for line in example_lines(load_command(name).epilog or "")]


def example_lines(epilog: str) -> list[str]:
    r"""Return the shell lines of an epilog made by `cli.options.example`.

    Example:
        >>> example_lines("\b\nExample:\n  wb inspect \\\n    acts.h5")
        ['wb inspect acts.h5']
    """
    body = epilog.split("Example:\n", 1)[1] if "Example:\n" in epilog else ""
    joined = re.sub(r"\s*\\\n\s*", " ", body)
    return [line.strip() for line in joined.splitlines() if line.strip()]


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if a page is not up to date.")
@click.option("--examples", is_flag=True, help="Print the examples of all help texts but the demo's.")
def main(check: bool, examples: bool) -> None:
    """Write the generated parts of the documentation."""
    if examples:
        click.echo("\n".join(line for line in help_examples() if not line.startswith("wb demo")))
        return
    outdated = outdated_pages()
    for path, text in outdated.items():
        click.echo(f"{'outdated' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and outdated:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
