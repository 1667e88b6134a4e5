"""Print the commands of one fenced block of the README, so that the gate runs what the README says.

    python .ci/readme_commands.py 'setup: demo'

The block is the first fence after the comment `<!-- setup: demo -->`. In a terminal session, where lines
begin with `$ `, only those are commands; what they printed is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path


def commands(readme: str, mark: str) -> list[str]:
    """Return the command lines of the block marked `<!-- mark -->`; a trailing backslash joins lines."""
    _, _, after = readme.partition(f"<!-- {mark} -->")
    assert after, f"README.md has no block marked <!-- {mark} -->"
    fence = after.split("```", 2)[1].split("\n", 1)[1]
    lines = fence.replace("\\\n", "").splitlines()
    typed = [line[2:] for line in lines if line.startswith("$ ")]
    return typed or [line for line in lines if line.strip()]


if __name__ == "__main__":
    page = Path(__file__).resolve().parent.parent / "README.md"
    sys.stdout.write("\n".join(commands(page.read_text(encoding="utf-8"), sys.argv[1])) + "\n")
