"""Every Python example of the documentation runs as it stands, from a folder that is not the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
FRONT_DOOR = ROOT / "docs" / "start" / "python.md"
NOTEBOOK = ROOT / "docs" / "start" / "front_door.ipynb"
TIMEOUT_S = 1800  # the whole thread with its audit, beside other tests


def python_blocks(text: str) -> str:
    """Return the Python blocks of a page as one program: a later block goes on where an earlier one ended."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))


def code_of(notebook: Path) -> str:
    """Return the code cells of a notebook as one program."""
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def run_python(program: str, folder: Path) -> None:
    """Run a program by itself in a folder."""
    script = folder / "example.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, script.name], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr


def statements(program: str) -> list[str]:
    return [line for line in program.splitlines() if line.strip()]


def test_the_notebook_has_the_lines_of_the_page():
    assert statements(code_of(NOTEBOOK)) == statements(python_blocks(FRONT_DOOR.read_text(encoding="utf-8")))


def test_the_notebook_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def test_blocks_of_a_page_are_one_program_and_other_languages_are_left_out():
    assert python_blocks("a\n```python\nx = 1\n```\n```sh\nls\n```\n```python\nx\n```\n") == "x = 1\n\nx\n"


def test_an_example_that_fails_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_python("1 / 0\n", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_the_front_door_opens_from_anywhere(tmp_path):
    outcome = (
        "\nassert report.verdict == 'inconclusive', report.verdict\nassert report.forget.recall.after.value == 0.0\n"
    )
    run_python(python_blocks(FRONT_DOOR.read_text(encoding="utf-8")) + outcome, tmp_path)
    assert (tmp_path / "acts.h5").is_file()
    assert (tmp_path / "sae" / "sae_weights.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_the_notebook_runs(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=resources).execute()
    (output,) = [o for o in notebook.cells[-1].outputs if o.output_type == "execute_result"]
    assert output.data["text/plain"].startswith("('inconclusive', Interval(value=0.0, low=0.0, high="), output.data


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_python_examples_of_other_pages_run(tmp_path):
    """Those that are the lines of the front door's page ran above."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    programs = {page: python_blocks(page.read_text(encoding="utf-8")) for page in pages if page != FRONT_DOOR}
    ran = statements(python_blocks(FRONT_DOOR.read_text(encoding="utf-8")))
    assert ran in map(statements, programs.values()), "README has them as well"
    for number, program in enumerate(p for p in programs.values() if statements(p) not in ([], ran)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run_python(program, folder)
