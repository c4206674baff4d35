"""A packed bundle is whole, tells nothing of its data, works where the repository is not, and hides no code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pytest
import torch
from PIL import Image

from common.networks import BasicUNet
from common.phantoms.jsrt import make_jsrt_phantom
from common.portable import package, verify
from common.portable.package import MANIFEST, manifest

ROOT = Path(__file__).parents[2]
IMPORTS = json.loads((ROOT / "bundles" / "jsrt_rpg" / "configs" / "train.json").read_text())["imports"]
NETWORK = {"features": [4, 4, 4, 4, 8, 4], "norm": "instance", "spatial_dims": 2, "in_channels": 1, "out_channels": 5}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """What a training leaves: a bundle, and beside it what is of the data."""
    folder = tmp_path_factory.mktemp("run") / "eval"
    shutil.copytree(ROOT / "bundles" / "jsrt_rpg", folder, ignore=shutil.ignore_patterns("models", "eval", "cache"))
    (folder / "models").mkdir()
    torch.save(BasicUNet(**NETWORK).state_dict(), folder / "models" / "model.pt")
    for name in ("train.csv", "test.csv", "checkpoint.pt"):
        (folder / name).write_text("of patient 17")
    config = json.loads((folder / "configs" / "train.json").read_text())
    config |= {"dataset_dir": "/data/hospital", "datalist": "/data/hospital/names.json"}
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory) -> Path:
    return package(run, tmp_path_factory.mktemp("packed") / "lungs.zip")


def contents(file: Path) -> dict[str, bytes]:
    with ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def written(file: Path, members: dict[str, bytes], listed: bool = True) -> Path:
    """A file of other members, with a manifest that fits them."""
    top = next(iter(members)).split("/")[0]
    if listed:
        own = {n.split("/", 1)[-1]: c for n, c in members.items() if not n.endswith(MANIFEST)}
        members = members | {f"{top}/{MANIFEST}": manifest({n: hashlib.sha256(c).hexdigest() for n, c in own.items()})}
    with ZipFile(file, "w", ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file


def refused(file: Path, capsys) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        verify(file)
    assert ended.value.code == 1
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]


def test_what_is_in_it(packed, run):
    found = contents(packed)
    assert {name.split("/")[0] for name in found} == {"lungs"}
    names = {name.split("/", 1)[1] for name in found}
    assert {"configs/train.json", "models/model.pt", "scripts/folder.py", "LICENSE", "common/methods/rpg.py"} <= names
    assert "common/report/templates/report.html" in names or any("common/report/templates/" in n for n in names)
    assert not any(word in content for content in found.values() for word in (b"patient 17", b"/data/hospital"))
    assert found["lungs/configs/inference.json"] == (run / "configs" / "inference.json").read_bytes()
    sums = json.loads(found[f"lungs/{MANIFEST}"])["sha256"]
    assert sums == {n.split("/", 1)[1]: hashlib.sha256(c).hexdigest() for n, c in found.items() if MANIFEST not in n}


def test_the_same_run_gives_the_same_file(packed, run, tmp_path):
    assert package(run, tmp_path / "lungs.zip").read_bytes() == packed.read_bytes()


def test_a_whole_one_is_verified_and_says_what_it_would_run(packed, capsys):
    verify(packed)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(", 0 errors")
    assert "known: configs/train.json: method#_target_: common.methods.RPG" in lines
    assert "known: configs/inference.json: network: $@network_def.to(@device)" in lines
    assert not any(line.startswith(("other", "error")) for line in lines)


@pytest.mark.parametrize(
    ("name", "output", "error"),
    [("nowhere", "a.zip", "must be the folder of a finished run"), (None, "a.tar", "must be a .zip file")],
)
def test_what_cannot_be_packed(run, tmp_path, name, output, error):
    with pytest.raises((FileNotFoundError, ValueError), match=error):
        package(run if name is None else tmp_path / name, tmp_path / output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../lungs/a.py", "/lungs/a.py", "lungs/../../a.py", "C:/lungs/a.py", "lungs\\..\\a", "lungs//a.py"]
)
def test_names_that_lead_elsewhere(packed, tmp_path, capsys, name):
    errors = refused(written(tmp_path / "a.zip", contents(packed) | {name: b"1"}, listed=False), capsys)
    assert any("a name that leads elsewhere" in line for line in errors)


def test_links(packed, tmp_path, capsys):
    link = ZipInfo("lungs/scripts/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with ZipFile(shutil.copy(packed, tmp_path / "a.zip"), "a") as file:
        file.writestr(link, "/etc/passwd")
    assert any(
        "link.py' must be a file inside of its folder, got a link" in e for e in refused(tmp_path / "a.zip", capsys)
    )


def test_a_member_that_is_larger_than_it_looks(packed, tmp_path, capsys):
    file = written(tmp_path / "a.zip", contents(packed) | {"lungs/docs/README.md": bytes(2**24)})
    assert any("16777216 bytes, packed in" in line for line in refused(file, capsys))


def test_a_member_there_twice(packed, tmp_path, capsys):
    with pytest.warns(UserWarning, match="Duplicate"), ZipFile(shutil.copy(packed, tmp_path / "a.zip"), "a") as file:
        file.writestr("lungs/LICENSE", "mine")
    assert refused(tmp_path / "a.zip", capsys) == ["error: lungs/license is there 2 times"]


def test_a_changed_byte(packed, tmp_path, capsys):
    found = contents(packed)
    weights = bytearray(found["lungs/models/model.pt"])
    weights[-300] ^= 1
    errors = refused(written(tmp_path / "a.zip", found | {"lungs/models/model.pt": bytes(weights)}, False), capsys)
    assert "error: models/model.pt has another SHA-256 than the manifest: it was changed" in errors


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_file_that_is_no_zip_as_it_was_packed(packed, tmp_path, damage):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.zip").write_bytes({"cut": data[: len(data) // 2], "flipped": data, "text": b"no"}[damage])
    with pytest.raises(SystemExit, match=r"a\.zip must be a zip file as it was packed, got .*: copy it again"):
        verify(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["models/model.pt", "configs/inference.json", "common/step.py"])
def test_a_missing_file(packed, tmp_path, capsys, name):
    found = {n: content for n, content in contents(packed).items() if n != f"lungs/{name}"}
    assert f"error: {name} is in the manifest and not in the file" in refused(
        written(tmp_path / "a.zip", found, False), capsys
    )


def test_a_file_that_the_manifest_does_not_know(packed, tmp_path, capsys):
    found = contents(packed)
    sums = json.loads(found[f"lungs/{MANIFEST}"])
    del sums["sha256"]["LICENSE"]
    file = written(tmp_path / "a.zip", found | {f"lungs/{MANIFEST}": json.dumps(sums).encode()}, False)
    assert refused(file, capsys) == ["error: LICENSE is not in the manifest"]
    for text in ("[" * 10**5, '{"sha256": ["LICENSE"]}', "[]"):
        file = written(tmp_path / "c.zip", found | {f"lungs/{MANIFEST}": text.encode()}, False)
        assert "manifest.json must be there" in refused(file, capsys)[0]
    without = {name: content for name, content in contents(packed).items() if MANIFEST not in name}
    assert "manifest.json must be there" in refused(written(tmp_path / "b.zip", without, False), capsys)[0]


@pytest.mark.parametrize(
    "name",
    ["common/step.py", "common/more.py", "scripts/folder.py", "sitecustomize.py", "configs/logging.conf", "a.pth"],
)
def test_code_of_others(packed, tmp_path, capsys, name):
    """The logging's configuration is evaluated, too."""
    errors = refused(written(tmp_path / "a.zip", contents(packed) | {f"lungs/{name}": b"import os"}), capsys)
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {name} is not this installation's (common ")


class Program:
    def __reduce__(self):
        return os.system, ("true",)


def test_weights_that_are_a_program(packed, tmp_path, capsys):
    for content in (pickle.dumps(Program()), b"none"):
        errors = refused(written(tmp_path / "a.zip", contents(packed) | {"lungs/models/model.pt": content}), capsys)
        assert len(errors) == 1 and errors[0].startswith("error: models/model.pt must be a checkpoint of tensors")


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": "$__import__('os').system('true')"},
        {"loss": {"_target_": "os.system", "command": "true"}},
        {"more": [{"_target_": "subprocess.run"}]},
        {"cache_dir": "%/etc/passwd::x"},
        {"loss": {"_target_": "common.losses.Dice", "_mode_": "debug"}},
        # expressions that are the bundle's, where what they name is another
        {"run": "os.system", "evaluator": {"_target_": "$@run", "command": "true"}},
        {"more": {"_target_": "$@method", "method": 3}},
        {"bundle_root": "docs"},
        {"scripts": {"FolderEvaluator": "os.system"}},
        # parts of masks' names, which would be written elsewhere
        {"classes": ["lesion", "x/../../../elsewhere"]},
        {"output_ext": "/../elsewhere.png"},
        # a text that MONAI looks a function up by
        {"more": {"_target_": "LoadImaged", "keys": "image", "reader": "os.system", "command": "true"}},
    ],
)
@pytest.mark.parametrize("file", ["train", "inference", "more"])
def test_configurations_that_would_run_something_else(packed, tmp_path, capsys, change, file):
    found, name = contents(packed), f"lungs/configs/{file}.json"
    config = json.loads(found.get(name, b"{}")) | change
    errors = refused(written(tmp_path / "a.zip", found | {name: json.dumps(config).encode()}), capsys)
    told = "would run or name what no bundle of this installation does there"
    assert errors and all(error.startswith(f"error: configs/{file}.json: ") and told in error for error in errors)
    assert {error.split(": ")[2].split("#")[0].split(" ")[0] for error in errors} <= set(change)


@pytest.mark.parametrize("key", ["_target_", "author"])
def test_metadata_say_and_run_nothing(packed, tmp_path, capsys, key):
    found, name = contents(packed), "lungs/configs/metadata.json"
    config = json.loads(found[name]) | {key: "os.system" if key == "_target_" else "$exit()"}
    errors = refused(written(tmp_path / "a.zip", found | {name: json.dumps(config).encode()}), capsys)
    assert len(errors) == 1 and f"configs/metadata.json: {key} would run" in errors[0]


def test_a_name_beside_the_one_that_is_checked(packed, tmp_path, capsys):
    """Info-ZIP's unzip takes the name of the extra field 0x7075, others the one that is checked here."""
    with ZipFile(packed) as source, ZipFile(tmp_path / "a.zip", "w") as file:
        for member in source.infolist():
            content = source.read(member)
            if member.filename == "lungs/LICENSE":
                other = b"lungs/scripts/more.py"
                field = b"\x01" + zlib.crc32(member.filename.encode()).to_bytes(4, "little") + other
                member.extra = struct.pack("<HH", 0x7075, len(field)) + field
            file.writestr(member, content)
    assert "another name beside this one" in refused(tmp_path / "a.zip", capsys)[0]


def test_what_is_verified_can_be_unpacked(packed, tmp_path, capsys):
    verify(packed, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {name.split("/", 1)[1] for name in contents(packed)} - {MANIFEST}
    with pytest.raises(SystemExit, match="output must be a folder that is not there yet"):
        verify(packed, tmp_path / "out")
    bad = written(tmp_path / "a.zip", contents(packed) | {"lungs/common/more.py": b"1"})
    refused(bad, capsys)
    with pytest.raises(SystemExit):
        verify(bad, tmp_path / "bad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_where_the_data_were_stays_behind_at_every_depth(run, tmp_path):
    """MONAI Label writes its pairs into the configuration."""
    bundle = shutil.copytree(run, tmp_path / "labelled")
    path = bundle / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["train"]["dataset"]["data"] = [{"image": "/data/Mueller_Hans.nii.gz", "label": "/data/a.nii.gz"}]
    config["data"]["datalist"] = "/data/names.json"
    path.write_text(json.dumps(config))
    found = contents(package(bundle, tmp_path / "a.zip"))
    assert not any(
        b"Mueller" in content or b"/data/" in content for name, content in found.items() if "configs" in name
    )
    assert json.loads(found["a/configs/train.json"])["train"]["dataset"]["data"] == "$@data['labeled']"
    config["cache_dir"] = "/home/me/cache"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"must hold no path of this machine, .* got cache_dir: /home/me/cache"):
        package(bundle, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_other_settings_and_parts_of_methods_are_no_code(packed, tmp_path, capsys):
    found = contents(packed)
    config = json.loads(found["lungs/configs/train.json"])
    config |= {"learning_rate": 0.5, "method#loss": "$None", "loss": {"_target_": "common.losses.Sum", "losses": []}}
    verify(written(tmp_path / "a.zip", found | {"lungs/configs/train.json": json.dumps(config).encode()}))
    assert "known: configs/train.json: loss#_target_: common.losses.Sum" in capsys.readouterr().out


@pytest.mark.slow
def test_it_trains_and_infers_by_the_code_in_it(packed, tmp_path, capsys):
    with ZipFile(packed) as file:
        file.extractall(tmp_path)
    bundle, data = tmp_path / "lungs", make_jsrt_phantom(tmp_path / "data", patients=24, size=64)
    (bundle / "common" / "here.py").write_text("")  # is imported, so that no other `common` would do
    small = {"bundle_root": ".", "image_size": [32, 32], "network_def#features": NETWORK["features"]}
    few = {"epochs": 1, "iterations": 2, "val_interval": 1, "imports": ["$import common.here", *IMPORTS]}
    before = (bundle / "models" / "model.pt").read_bytes()
    monai_bundle(bundle, "training", "train", {**small, **few, "dataset_dir": data})
    assert (bundle / "models" / "model.pt").read_bytes() != before
    with pytest.raises(SystemExit):  # the run's bundle has no other texts than the import that proves it
        verify(package(bundle / "eval", tmp_path / "again.zip"))
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: configs/train.json: imports#* would run")
    for name in ("configs", "models"):
        shutil.copytree(bundle / "eval" / name, tmp_path / "trained" / name)
    shutil.copytree(bundle / "scripts", tmp_path / "trained" / "scripts")
    (tmp_path / "images").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (50, 40)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    monai_bundle(tmp_path / "trained", "inferring", "inference", {"dataset_dir": tmp_path / "images"})
    assert len(list((tmp_path / "trained" / "eval" / "predictions").glob("a_*.png"))) >= 5


def monai_bundle(bundle: Path, name: str, config: str, options: dict) -> None:
    """As somebody does who unpacked the file and has no path to this repository."""
    words = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = ["-m", "monai.bundle", "run", name, "--config_file", f"configs/{config}.json", *words]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=bundle, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
