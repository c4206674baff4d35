"""What is typed for a bundle's run, and is none of its keys."""

from __future__ import annotations

import json
import sys

import pytest
from monai.bundle import __main__ as command

from common.bundle_keys import refuse_unknown_keys


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps({"epochs": 1, "val_interval": 1, "method": {"_target_": "x"}}))
    (tmp_path / "demo.json").write_text(json.dumps({"patch_size": [1]}))
    (tmp_path / "evaluate.json").write_text(json.dumps({"lesions": None}))
    return [str(tmp_path / "train.json"), str(tmp_path / "demo.json")]


def typed(files, *words):
    return ["training", "--config_file", str(files), *words]


def test_keys_of_the_configurations_and_of_the_command(files):
    refuse_unknown_keys(
        typed(files, "--epochs", "3", "--val-interval=-1", "--patch_size", "[2]", "--meta_file", "m.json")
    )
    refuse_unknown_keys(typed(files, "--method::threshold", "0.7", "--method#view#anything", "$None", "--+epochs", "1"))
    refuse_unknown_keys(["training", f"--config_file={files[0]}", "--epochs", "--", "--trace"])
    refuse_unknown_keys(typed(files, "--tracking", "mlflow", "--run_name", "a"))
    refuse_unknown_keys(typed(files, "--lesions", "$None"))  # of the evaluation, which has the same command line
    refuse_unknown_keys(["training", "--epohcs", "3"])  # without a configuration MONAI says what is missing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epohcs", "3"], r"--epohcs must be a key of .*train\.json.*, got one that is none: write --epochs\."),
        (["--epohcs=3"], "--epohcs must be"),
        (["--zzz#epochs", "3"], "--zzz#epochs must be .*: see docs/reference/configuration.md"),
        (["--run_name", "a"], "--run_name must be"),
        (
            ["--method#_target_", "common.methods.Foo"],
            r"must be common\.methods\. and one of .*, got .*Foo\.",
        ),
        (["--method::_target_=common.methods.RGP"], "method#_target_ must be"),
    ],
)
def test_keys_and_methods_that_are_none(files, words, message):
    with pytest.raises(ValueError, match=message):
        refuse_unknown_keys(typed(files, *words))


def test_a_file_of_arguments(files, tmp_path):
    path = tmp_path / "further" / "args.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"config_file": files, "epochs": 2}))
    refuse_unknown_keys(["training", "--args_file", str(path)])
    path.write_text(json.dumps({"config_file": files, "epohcs": 2}))
    with pytest.raises(ValueError, match="--epohcs must be a key"):
        refuse_unknown_keys(["training", "--args_file", str(path)])


def test_only_a_bundle_s_run_is_looked_at(files, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", *typed(files, "--epohcs", "3")])
    refuse_unknown_keys()
    monkeypatch.setattr(sys, "argv", [command.__file__, *typed(files, "--epohcs", "3")])
    with pytest.raises(ValueError, match="--epohcs must be a key"):
        refuse_unknown_keys()
