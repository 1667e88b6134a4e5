"""The house: small rooms, short functions, no circles, no arrow upwards, and a command line that holds no workflow."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("sae_train", "features", "unlearn", "cli")
MOST_MODULES = 15  # loose modules in a folder; a registry (methods, evaluations, attacks, commands) may have more
REGISTRIES = ("unlearn/methods", "unlearn/auditing/evaluations", "unlearn/auditing/attacks")
MOST_LINES = 60  # of a function, its docstring apart
MOST_COMMAND_LINES = 60  # of a file cli/cmd_<name>.py


def modules() -> list[Path]:
    return sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def is_loose(path: Path) -> bool:
    return path.name != "__init__.py" and not path.name.startswith("cmd_")


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


@pytest.mark.parametrize("floor", FLOORS)
def test_a_room_has_at_most_fifteen_loose_modules(floor: str) -> None:
    folders = {path.parent for path in modules() if path.is_relative_to(ROOT / floor)}
    sizes = {
        folder.relative_to(ROOT).as_posix(): len([p for p in folder.glob("*.py") if is_loose(p)]) for folder in folders
    }
    assert {k: n for k, n in sizes.items() if n > MOST_MODULES and k not in REGISTRIES} == {}


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = {
        f"{path.relative_to(ROOT).as_posix()}:{name}": n
        for path in modules()
        for name, n in functions(path)
        if n > MOST_LINES
    }
    assert long == {}


def test_every_room_says_what_lives_there() -> None:
    rooms = {path.parent for path in modules()}
    silent = [
        room.relative_to(ROOT).as_posix()
        for room in rooms
        if not (room / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_a_command_is_options_one_call_one_rendering() -> None:
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "cli").glob("cmd_*.py")
    }
    assert {name: n for name, n in lengths.items() if n > MOST_COMMAND_LINES} == {}


@pytest.mark.parametrize("floor", FLOORS[:3])
def test_a_front_door_hands_out_what_it_tells_type_checkers(floor: str) -> None:
    """The imports under TYPE_CHECKING, `__all__` and the mapping of lazy names say the same."""
    tree = ast.parse((ROOT / floor / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    package = importlib.import_module(floor)
    assert sorted(told) == sorted(package.__all__) == dir(package)
    for name, module in told.items():
        assert module is not None and getattr(package, name) is getattr(importlib.import_module(module), name), name


def test_no_module_imports_one_that_imports_it() -> None:
    known = {module_name(path): path for path in modules()}
    imports = {name: imported(path, known) - {name} for name, path in known.items()}
    circles = [name for name in imports if name in reachable(name, imports)]
    assert circles == []


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a file imports when it is imported: not inside functions, not for types only."""
    found: set[str] = set()
    for node in top_level(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in known else str(node.module) for n in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
    return found


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node


def reachable(start: str, imports: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imports[waiting.pop()]:
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def test_one_place_decides_which_number_formats_are_used() -> None:
    decides = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.autocast"
    }
    assert decides == {"sae_train/machine/arithmetic.py"}
