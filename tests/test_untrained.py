"""Weights of a bundle before its first training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from common.untrained import save_untrained

BUNDLES = Path(__file__).parents[1] / "bundles"


def copied(bundle: str, folder: Path, features: list[int] | None = None) -> Path:
    copy = folder / bundle
    shutil.copytree(BUNDLES / bundle / "configs", copy / "configs")
    shutil.copytree(BUNDLES / bundle / "scripts", copy / "scripts")
    for name in ("train", "inference") if features else ():
        file = copy / "configs" / f"{name}.json"
        config = json.loads(file.read_text())
        config["network_def"]["features"] = features
        file.write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("bundle", sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir()))
def test_weights_fit_the_network_that_infers(bundle, tmp_path):
    copy = copied(bundle, tmp_path, [4, 4, 4, 4, 8, 4])
    state = torch.load(save_untrained(copy), weights_only=True)
    parser = ConfigParser(json.loads((copy / "configs" / "inference.json").read_text()))
    parser["bundle_root"] = str(copy)
    parser.get_parsed_content("network_def").load_state_dict(state)
    known = json.loads((copy / "models" / "model.json").read_text())
    given = parser.get_parsed_content("given")
    assert known == {key: given[key] for key in known}  # inferring compares them


def test_weights_are_those_that_a_training_begins_with(tmp_path):
    first, second = (torch.load(save_untrained(copied("jsrt_rpg", tmp_path / name))) for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not first["final_conv.bias"].any()  # by Xavier's rule, other than MONAI's network


def test_a_model_that_is_there_is_kept(tmp_path):
    copy = copied("jsrt_rpg", tmp_path)
    (copy / "models").mkdir()
    (copy / "models" / "model.pt").write_text("trained")
    with pytest.raises(FileExistsError, match=r"model\.pt must not be there yet, got a model, which is kept"):
        save_untrained(copy)
    assert (copy / "models" / "model.pt").read_text() == "trained"


def test_what_is_no_bundle_is_told(tmp_path):
    command = [sys.executable, "-m", "common", "untrained", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "inference.json must be the bundle's, got no such file: give the bundle's folder" in done.stderr
