"""Print the lowest version of every dependency that pyproject.toml allows, as requirements of pip.

    python .ci/lowest_versions.py > lowest.txt && pip install --only-binary :all: -r lowest.txt

The bounds name the oldest major version the code is written for. They are not tested together: what is tested stands in
constraints.txt.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w.-]+)>=([\w.]+)")


def lowest(dependencies: list[str]) -> list[str]:
    """Return each requirement at its lower bound.

    Example:
        >>> lowest(["torch>=2.6", "pytest>=8.4,<9.2"])
        ['torch==2.6', 'pytest==8.4']
    """
    found = [BOUND.match(text) for text in dependencies]
    assert all(found), f"no lower bound: {[t for t, m in zip(dependencies, found, strict=True) if m is None]}"
    return [f"{match[1]}=={match[2]}" for match in found if match is not None]


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    sys.stdout.write("\n".join(lowest(project["project"]["dependencies"])) + "\n")
