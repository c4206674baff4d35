"""The command line: commands as documented, help, and one line for input that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.__main__ import main

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "common", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_phantom_datalist_and_check_as_documented(tmp_path):
    phantom = tmp_path / "phantom"
    assert run("phantom", "jsrt", phantom, "--patients", 40, "--size", 64, "--seed", 0).returncode == 0
    file = tmp_path / "datalist.json"
    done = run("datalist", "jsrt", phantom, "--labeled", 3, "--split", 0, "--output", file)
    assert done.returncode == 0, done.stderr
    assert "labeled: 3 images of 3 patients" in done.stdout
    done = run("check", file)
    assert done.returncode == 0, done.stderr
    assert "0 errors" in done.stdout


def run_here(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["python -m common", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    if isinstance(end.value.code, str):  # Python prints it and ends with status 1
        print(end.value.code, file=sys.stderr)
        return 1
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("datalist", "jsrt", "no/such/folder"), "no/such/folder"),
        (("check", "no_such_file.json"), "no_such_file.json"),
        (("report", "no_such_folder"), "no_such_folder"),
        (("compare", "runs/none", "no_such_file.json"), "no_such_file.json"),
        (("tables", "no_such_file.yaml", "runs/none"), "no_such_file.yaml"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_1(arguments, message, monkeypatch, capsys):
    assert run_here(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "command", [("phantom", "jsrt"), ("datalist", "folder"), ("check",), ("report",), ("demo",), ("tables",)]
)
def test_help_explains_the_arguments(command, monkeypatch, capsys):
    assert run_here(monkeypatch, *command, "--help") == 0
    said = "".join(capsys.readouterr())
    assert "ARGUMENTS" in said or "FLAGS" in said


def test_help_of_a_comparison_which_takes_any_setting(monkeypatch, capsys):
    assert run_here(monkeypatch, "compare", "--", "--help") == 0
    assert "datalists" in "".join(capsys.readouterr())
