"""docs/reference/failures.md names the tests there are, has a row for every command, and the numbers that are tried."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "failures.md"


def cells(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table whose head begins with a word, by command."""
    table = PAGE.read_text(encoding="utf-8").split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {found[1]: row[1:] for row in rows if (found := re.match(r"`wb ([\w-]+)`", row[0]))}


def test_the_page_names_the_tests_there_are():
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    files = TESTS.rglob("test_*.py")
    known = {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    assert named and named <= known, named - known


def test_the_page_has_a_row_for_every_command_of_the_table(failure_table):
    assert set(cells("command")) >= {*failure_table.results, "train-sae", "remove"}


def test_the_page_has_the_numbers_of_moments_that_are_tried(failure_table):
    assert cells("moments") == {
        command: [str(stops), str(stops), str(failure_table.full_disks.get(command, "–"))]
        for command, stops in failure_table.stops.items()
    }
