"""The command line: commands as documented, help, and one line for input that cannot be used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import fire
import pytest

from common.__main__ import commands, main
from common.command_line import find, leaves
from common.command_words import refuse_unfit, spelled

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
        (("grid", "no_such_file.yaml", "runs/none"), "no_such_file.yaml"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_1(arguments, message, monkeypatch, capsys):
    assert run_here(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


COMMANDS = [(*path, word) for path, word, _ in leaves(commands())]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_a_command_and_its_arguments(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m common", *command, "--help"])
    main()
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m common {' '.join(command)}") and "Args:" in said
    _, function, _ = find(commands(), command)
    for name in inspect.signature(function).parameters:
        assert f"{name}: " in said or f"{name.upper()}" in said, name


@pytest.mark.parametrize("arguments", [(), ("--help",), ("datalist",), ("datalist", "--help")])
def test_groups_list_their_commands(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m common", *arguments])
    main()
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m common{' datalist' * ('datalist' in arguments)} COMMAND")
    words = [" ".join(command) for command in COMMANDS]
    words = (
        [word.removeprefix("datalist ") for word in words if "datalist" in word] if "datalist" in arguments else words
    )
    assert all(f"\n  {word} " in said for word in words)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['common', 'datalist', 'folder', '--help']; from common.__main__ import main; main(); "
    )
    code += "print({'torch', 'monai', 'itk', 'pandas', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("datalist", "foldr"),
            "patients, isbi, monailabel, got foldr: perhaps folder is",
        ),
        (("chek",), "got chek: perhaps check is meant"),
        (("phantom", "jsrt", "OUT", "--patient", "3"), "--fine, got --patient: perhaps --patients is meant"),
        (("phantom", "jsrt", "OUT", "--no-such=3"), "got --no_such"),
    ],
)
def test_what_a_command_does_not_take_is_refused_before_it_does_anything(
    arguments, message, monkeypatch, capsys, tmp_path
):
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    assert run_here(monkeypatch, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_in_fire_s_ways_are_taken():
    def command(name: str, deep: bool = True, size: int = 3) -> None:
        """A command."""

    refuse_unfit("tool", command, ["a", "--nodeep", "--size=4", "--", "--verbose"])
    refuse_unfit("tool", command, ["--size", "-4", "a", "false"])
    with pytest.raises(ValueError, match=r"has the options --name, --deep, --size, got --nosize"):
        refuse_unfit("tool", command, ["--nosize"])


BAD_VALUES = {
    "int": ("abc", "2.5", "nan", "inf", "1e3", "[1, 2]", "True", "None", "", None),
    "int | None": ("abc", "2.5", "nan", "[1, 2]", "True", "", None),
    "float": ("abc", "nan", "inf", "1e400", "[1]", "True", "None", "", None),
    "float | None": ("abc", "nan", "1e400", "", None),
    "bool": ("maybe", "3"),
    "str": ("", " ", None),
    "str | None": ("", None),
    "str | Path": ("", None),
    "str | Path | None": ("", None),
    "str | Path | int | None": ("2.5", "True", "[1]", "", None),
    "list | None": ("3", "True", "{'a': 1}", "", None),
    "Sequence[str] | None": ("3", "True", "{'a': 1}", "", None),
    "str | dict | None": ("{'a': 'x', 'a': 'y'}", "", None),
    "Mapping[str, str | Path] | None": ("{'a': 'x', 'a': 'y'}", "", None),
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_values_of_another_kind_are_refused_before_a_command_does_anything(command, monkeypatch, capsys):
    def never(*arguments, **options):
        pytest.fail(f"{arguments} {options} was run")

    monkeypatch.setattr(fire, "Fire", never)
    parameters = inspect.signature(find(commands(), command)[1]).parameters
    required = [f"--{name}=x" for name, parameter in parameters.items() if parameter.default is parameter.empty]
    for name, parameter in parameters.items():
        others = [word for word in required if not word.startswith(f"--{name}=")]
        for value in BAD_VALUES[parameter.annotation]:
            if value is not None and not value.strip() and parameter.default == "":
                continue
            word = f"--{name}" if value is None else f"--{name}={value}"
            assert run_here(monkeypatch, *command, *others, word) == 1, word
            said = capsys.readouterr().err
            assert said.startswith(f"Error: python -m common {' '.join(command)}: --{name} must be "), (word, said)
    if required:
        assert run_here(monkeypatch, *command) == 1
        assert f"needs {' and '.join(w[2:-2].upper() for w in required)}, got none" in capsys.readouterr().err
    assert run_here(monkeypatch, *command, *["x"] * len(required), *required[:1], *["x"] * len(parameters)) == 1
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "RUN", "EXTRA"), "report takes 1 arguments, got one more: EXTRA"),
        (("report", "RUN", "-x"), "report has the options --run_dir, got -x"),
        (("datalist", "jsrt", "DIR", "-labeled", "3"), "got -labeled: perhaps --labeled is meant"),
        (("datalist", "jsrt", "DIR", "--labeled", "3", "--labeled=4"), "takes --labeled once, got it twice"),
        (("check", "ONE", "--datalist", "OTHER"), "check takes 1 arguments, got one more: ONE"),
    ],
)
def test_words_too_many_are_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(fire, "Fire", lambda *arguments, **options: pytest.fail("it was run"))
    assert run_here(monkeypatch, *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--deep", "false"], ["--deep=false"], ["--deep", "False"], ["--deep=FALSE"], ["--nodeep"]]
)
def test_false_is_false(arguments):
    def command(name: str = "", deep: bool = True) -> bool:
        return deep

    assert fire.Fire(command, command=spelled(command, arguments), serialize=lambda result: None) is False
    assert spelled(command, ["--name", "false", "x"]) == ["--name", "false", "x"]
    assert spelled(command, ["--deep", "true", "--name=true"]) == ["--deep", "True", "--name=true"]


def test_folders_that_look_like_numbers_or_lists_are_folders():
    def command(
        images: str, output: str = "", masks: str | dict | None = None, minutes: float = 20.0, deep: bool = False
    ) -> tuple:
        return images, output, masks, minutes, deep

    def call(*arguments):
        words = spelled(command, arguments)
        return fire.Fire(command, command=words, serialize=lambda result: None)

    assert call("2024", "a,b", "--minutes", "3") == ("2024", "a,b", None, 3, False)
    assert call("--images=1e3", "--output", "007", "--deep") == ("1e3", "007", None, 20.0, True)
    assert call("--deep", "None", "True") == ("None", "True", None, 20.0, True)
    assert call("x", "--masks", "{'a': 'b'}", "--deep=false") == ("x", "", {"a": "b"}, 20.0, False)
    assert call("x", "--masks={a: 1e3, b: 007}")[2] == "{a: 1e3, b: 007}"
    assert call("x", "--masks={a: 1e3, b: c}")[2] == "{a: 1e3, b: c}"
