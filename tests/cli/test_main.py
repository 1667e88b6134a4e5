"""The frame of the command line: help without torch, exit codes, house form, --config, install guard."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import click
import pytest
from click.testing import CliRunner

from cli import group, main, options
from cli.config_file import load_config, named_options
from cli.install_guard import install_complaint
from cli.output import render
from sae_train.errors import ConfigError, FileFormatError, InputError, MissingFileError, RunError
from sae_train.run.notes import LOGGER, note
from sae_train.run.progress import shown

HEAVY = (
    "torch",
    "transformers",
    "h5py",
    "numpy",
    "scipy",
    "sklearn",
    "datasets",
    "wandb",
    "matplotlib",
    "rich",
    "pydantic",
)
ROOT = Path(main.__file__).resolve().parent.parent


def run_python(code: str, *, path: Path = ROOT, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True)


def test_an_interrupt_that_falls_into_a_destructor_is_heard(tmp_path):
    code = """
        import signal, time
        from cli import main

        class Last:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
                time.sleep(0)

        def work():
            Last()
            time.sleep(60)
            return 0

        def run():
            with main.interrupts_heard():
                return main.exit_code_of(work)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background was started to ignore it
        raise SystemExit(run())
    """
    done = run_python(dedent(code), cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (130, "Error: interrupted"), done.stderr


# ------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_top_level_help_imports_nothing_heavy(args, tmp_path):
    done = run_python(
        f"import sys; from cli.main import main; code = main({args!r});"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_the_import_check_can_fail(tmp_path):
    done = run_python(f"import sys, numpy; print(sorted(set({HEAVY!r}) & set(sys.modules)))", cwd=tmp_path)
    assert done.stdout.strip() == "['numpy']"


def test_help_lists_every_command():
    text = CliRunner().invoke(group.wb, ["--help"]).output
    for name, short in group.COMMANDS.items():
        assert f"  {name} " in text
        assert short.split()[0] in text


@pytest.mark.parametrize("name", [name for name, _ in group.leaf_commands()])
def test_each_command_explains_itself(name):
    result = CliRunner().invoke(group.wb, [*name.split(), "--help"], prog_name="wb")
    assert result.exit_code == 0, result.output
    assert f"Usage: wb {name} " in result.output
    assert "Example:" in result.output
    for option in ("--json", "--config"):
        assert option in result.output


def test_help_of_commands_imports_no_torch(tmp_path):
    """Defaults come from config dataclasses; reading them must not cost the import of torch."""
    done = run_python(
        "import sys\nfrom cli.group import leaf_commands\nfrom cli.main import main\nheavy = []\n"
        "for name, _ in leaf_commands():\n"
        "    assert main([*name.split(), '--help']) == 0\n"
        "    heavy += [name] * ('torch' in sys.modules)\n"
        "print(heavy, file=sys.stderr)",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


# ------------------------------------------------------------------------------------ outcomes and exit codes


@pytest.fixture
def outcome(capsys):
    """Run one action the way `wb` does; give back exit code and stderr."""

    def run(action) -> tuple[int, str]:
        def act() -> int:
            action()
            return 0

        code = main.exit_code_of(act)
        return code, capsys.readouterr().err

    return run


def raises(error: BaseException):
    def action() -> None:
        raise error

    return action


def test_input_errors_come_out_in_the_house_form(outcome):
    code, err = outcome(raises(InputError("no hook point 'x'", got="x", expected="layers.0", try_="wb inspect F")))
    assert code == 2
    assert err == ("Error: no hook point 'x'\n  got:      x\n  expected: layers.0\n  try:      wb inspect F\n")


@pytest.mark.parametrize(
    ("error", "expected_code"),
    [
        (RunError("the loss is NaN"), 1),
        (InputError("no"), 2),
        (click.UsageError("No"), 2),
        (click.ClickException("no"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_exit_codes(outcome, error, expected_code):
    code, err = outcome(raises(error))
    assert code == expected_code
    assert err.startswith("Error: ")
    assert "Traceback" not in err


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main.exit_code_of(lambda: 1 // 0)


def test_success_says_nothing(outcome):
    assert outcome(lambda: None) == (0, "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["trian-sae"], "train-sae"),
        (["--versoin"], "--version"),
        ([], "Usage: wb"),
    ],
)
def test_usage_errors_name_what_is_near(args, said, capsys):
    assert main.main(args) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_closed_pipe_is_no_error():
    wb = f"{sys.executable} -c 'import sys; from cli.main import main; sys.exit(main([\"--help\"]))'"
    done = subprocess.run(
        ["bash", "-c", f"{wb} | true"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == ""


# ---------------------------------------------------------------------------------------------- install guard


def test_the_guard_is_silent_on_a_sound_installation():
    assert install_complaint() is None


def test_the_guard_names_a_shadowing_package(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").write_text("raise ImportError('not the workbench')\n")
    done = run_python("import sys; from cli.main import main; sys.exit(main(['--help']))", cwd=tmp_path)
    assert done.returncode == 2
    assert str(tmp_path / "features") in done.stderr
    assert done.stderr.startswith("Error: another distribution shadows")
    assert "Traceback" not in done.stderr


def test_the_guard_names_a_missing_package():
    complaint = install_complaint(("cli", "no_such_package_of_ours"))
    assert complaint is not None
    assert "missing" in complaint


# --------------------------------------------------------------------------------------------------- --config


@click.command("probe")
@options.common_options
@click.option("--k", type=int, default=32)
@click.option("--hook-point", "hook_points", multiple=True)
@click.option("--lr-warmup-steps", type=int, default=0)
@options.device_option
def probe(**values):
    """Print what arrived."""
    click.echo(json.dumps({name: value for name, value in values.items() if name != "config_path"}))


def call(*args: str) -> dict:
    result = CliRunner().invoke(probe, list(args), standalone_mode=False, catch_exceptions=False)
    return json.loads(result.output) if result.exception is None else {"exception": result.exception}


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_file_sets_options_and_the_command_line_wins(toml):
    path = toml('k = 8\nlr-warmup-steps = 5\nhook_point = ["layers.0", "layers.1"]\njson = true\n')
    from_file = call("--config", path)
    assert (from_file["k"], from_file["lr_warmup_steps"], from_file["as_json"]) == (8, 5, True)
    assert from_file["hook_points"] == ["layers.0", "layers.1"]
    both = call("--k", "4", "--config", path, "--hook-point", "layers.7")
    assert (both["k"], both["lr_warmup_steps"], both["hook_points"]) == (4, 5, ["layers.7"])
    assert call()["k"] == 32


def test_one_value_for_a_repeatable_option_is_a_list_of_one(toml):
    assert call("--config", toml('hook-point = "layers.3"'))["hook_points"] == ["layers.3"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("kk = 8", ConfigError, "expected: k"),
        ("lr-warmup = 8", ConfigError, "lr-warmup-steps"),
        ("config = 'other.toml'", ConfigError, "unknown key"),
        ("k = [8]", ConfigError, "one value"),
        ("[k]\nx = 1", ConfigError, "table"),
        ("k = ", FileFormatError, "TOML"),
        ("device = 'tpu'", ConfigError, "cuda"),
    ],
)
def test_a_bad_file_is_refused(toml, text, error, said):
    with pytest.raises(error, match=said):
        call("--config", toml(text))


def test_a_bad_value_names_its_file(toml, outcome):
    path = toml("k = 'many'")
    code, err = outcome(lambda: probe.main(["--config", path], standalone_mode=False))
    assert code == 2
    assert f"k in {path} (--config)" in err


def test_a_file_that_is_not_there_lists_its_neighbours(toml, tmp_path):
    toml("")
    with pytest.raises(MissingFileError, match=r"nearest: run\.toml"):
        call("--config", str(tmp_path / "rnu.toml"))


def test_a_missing_folder_lists_its_neighbours(tmp_path):
    (tmp_path / "sae-4").mkdir()
    with pytest.raises(MissingFileError, match="nearest: sae-4"):
        options.ExistingFolder("an SAE").convert(str(tmp_path / "sae-5"), None, None)
    assert options.ExistingFolder("an SAE").convert(str(tmp_path / "sae-4"), None, None) == tmp_path / "sae-4"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices(device):
    assert call("--device", device)["device"] == device


def test_every_key_of_a_file_is_an_option():
    assert set(named_options(probe)) == {"json", "k", "hook_point", "lr_warmup_steps", "device"}
    assert load_config(click.Context(probe), probe.params[0], None) is None


def test_notes_and_news_go_to_stderr_while_a_command_runs(capsys):
    logger = logging.getLogger(LOGGER)
    before = (logger.level, list(logger.handlers))
    with main.notes_shown():
        note("look here")
        note("about to begin", is_news=True)
    note("about to end", is_news=True)
    assert capsys.readouterr() == ("", "look here\nabout to begin\n")
    assert (logger.level, list(logger.handlers)) == before


def test_help_is_named_alike_whoever_asks_a_command_first():
    """click keeps the help option of the first context that asks, here one of a caller that says no names."""
    for name, command in group.leaf_commands():
        command._help_option = None
        context = command.make_context(name, [], resilient_parsing=True)
        asked = command.get_help_option(context)
        assert asked is not None and asked.opts == ["-h", "--help"], name


# -------------------------------------------------------------------------------------------------- rendering


def test_json_is_one_object_with_null_for_nan(capsys):
    import numpy as np

    render.emit(
        {"fvu": float("nan"), "top": np.float32(0.5), "ids": np.arange(2), "path": Path("a/b")},
        as_json=True,
        title="x",
    )
    assert json.loads(capsys.readouterr().out) == {"fvu": None, "top": 0.5, "ids": [0, 1], "path": "a/b"}


def test_a_table_goes_to_stdout_whole(capsys):
    long_path = "/".join(["folder"] * 15)
    render.emit({"fvu": 0.25, "path": long_path, "parts": [1]}, as_json=False, title="an SAE [x]")
    captured = capsys.readouterr()
    assert "0.25" in captured.out
    assert long_path in captured.out
    assert "parts" not in captured.out
    assert captured.err == ""


def test_names_with_brackets_stay_as_they_are(capsys):
    render.emit({}, as_json=False, title="t", rows=[("[bold]x[/bold]", 1)], columns=("name", "n"))
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_short_loops_say_nothing_where_stderr_is_no_terminal(capsys):
    with shown("training", 3) as advance:
        for _ in range(3):
            advance(1, fvu=0.3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_forget_names_from_both_places(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Osk\n\n  Mira Tolvan \n", encoding="utf-8")
    assert options.forget_names(("Osk",), path) == ("Osk", "Mira Tolvan")
    with pytest.raises(ConfigError, match="nothing to forget"):
        options.forget_names((), None)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_nothing_is_lost_by_printing_what_an_encoding_does_not_hold(tmp_path, encoding):
    """A command that has saved its result ends well, whatever the result is called."""
    code = """
        import sys
        import click
        from cli import group, main
        from cli.output import render

        @click.command()
        @click.option("--json", "as_json", is_flag=True)
        def command(as_json):
            render.emit({"name": "東京 é \\udce9 🇰🇪"}, as_json=as_json, title="Forgotten: 東京")
            render.note("東京")

        main._invoke = lambda args: command.main(args, standalone_mode=False) or 0
        sys.exit(main.main(sys.argv[1:]))
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    run = [sys.executable, "-c", dedent(code)]
    table = subprocess.run(run, env=environment, capture_output=True)
    assert table.returncode == 0, table.stderr
    shown = table.stdout.decode(encoding)
    assert ("東京" if encoding == "utf-8" else "\\u6771\\u4eac") in shown
    printed = subprocess.run([*run, "--json"], env=environment, capture_output=True)
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout.decode("ascii")) == {"name": "東京 é \udce9 🇰🇪"}
