"""Check that the lower bounds of pyproject.toml can be installed together, each as it stands there.

    uv pip compile --resolution lowest-direct pyproject.toml > versions.txt
    python .ci/lowest_versions.py versions.txt

A bound that others of them forbid names a version that nobody can have. Exit code 1 where there is one; each is named
with the version that takes its place.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w.-]+)>=([\w.]+)")


def lowest(dependencies: list[str]) -> dict[str, str]:
    """Return the lower bound of each dependency.

    Example:
        >>> lowest(["torch>=2.6", "pytest>=8.4,<9.2"])
        {'torch': '2.6', 'pytest': '8.4'}
    """
    found = [BOUND.match(text) for text in dependencies]
    assert all(found), f"no lower bound: {[t for t, m in zip(dependencies, found, strict=True) if m is None]}"
    return {match[1]: match[2] for match in found if match is not None}


def too_low(bounds: dict[str, str], resolved: list[str]) -> list[str]:
    """Return what was resolved to another version than its bound; zeros and patches behind a bound are no other one.

    Example:
        >>> too_low({"torch": "2.6", "click": "8.2"}, ["torch==2.6.0", "click==8.4.2", "idna==3.20"])
        ['click>=8.2, but 8.4.2 is the lowest that goes with the others']
    """
    versions = dict(line.strip().split("==") for line in resolved if re.match(r"[\w.-]+==", line))
    return [
        f"{name}>={bound}, but {versions[name]} is the lowest that goes with the others"
        for name, bound in bounds.items()
        if not f"{versions[name]}.".startswith(f"{bound}.")
    ]


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    told = too_low(lowest(project["project"]["dependencies"]), lines)
    sys.stdout.write("".join(f"{line}\n" for line in told))
    sys.exit(1 if told else 0)
