"""Print the tests that failed in the last run of pytest in a folder, one a line, so that the gate runs them again.

    python .ci/failed_tests.py FOLDER

Reads what pytest's cache keeps, and takes the names of xdist's groups out of it, which pytest's --last-failed does not
know without xdist. Exit code 1 where no test failed, or where something failed that is no test: a file that could not
be collected.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def failed_tests(folder: Path) -> list[str]:
    """Return the ids of the tests that failed last, and leave them so in the cache; none where there is no cache."""
    cache = folder / ".pytest_cache" / "v" / "cache" / "lastfailed"
    if not cache.is_file():
        return []
    found = [without_group(name) for name in json.loads(cache.read_text(encoding="utf-8"))]
    cache.write_text(json.dumps(dict.fromkeys(found, True)), encoding="utf-8")
    return found


def without_group(name: str) -> str:
    """Return a test's id without the `@group` that xdist's loadgroup puts behind it.

    Example:
        >>> without_group("tests/test_a.py::test_x[a@b]@world"), without_group("tests/test_a.py::test_x[a@b]")
        ('tests/test_a.py::test_x[a@b]', 'tests/test_a.py::test_x[a@b]')
    """
    test = name.rpartition("::")[2]
    return name.rsplit("@", 1)[0] if test.rfind("@") > test.rfind("]") else name


if __name__ == "__main__":
    names = failed_tests(Path(sys.argv[1]))
    sys.stdout.write("".join(f"{name}\n" for name in names))
    sys.exit(0 if names and all("::" in name for name in names) else 1)
