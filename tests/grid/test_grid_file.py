"""The form of a grid file, and each thing in it that is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from common.grid.grid_file import read_grid
from common.grid.make import run_and_report
from common.grid.settings import GridError

GRIDS = Path(__file__).parents[2] / "grids"


def test_a_grid_file_is_read_with_the_ids_of_its_settings(write, tiny):
    grid = read_grid(write(tiny))
    methods, shares = grid.tables
    assert methods.settings == {"epochs": 3, "val_interval": 1, "method#neighbors": 0.5}
    assert (methods.labeled, methods.splits, methods.columns) == ([3, 4], [0, 1], "labeled")
    assert (shares.labeled, shares.columns, shares.title) == ([3], "method#neighbors", "shares")
    assert shares.rows[0].values == {"labeled_batch": [2, 3], "method#neighbors": [0.5, 1.0]}


def test_a_list_spans_an_axis_but_for_settings_that_are_lists(write, tiny):
    rows = tiny["tables"]["methods"]["rows"]
    rows[0]["image_size"] = [32, 32]
    rows[1]["image_size"] = [[32, 32], [64, 64]]
    rows[2]["learning_rate"] = "1e-3"  # which YAML takes for text
    plan = read_grid(write(tiny)).tables[0].rows
    assert plan[0].values == {"image_size": [[32, 32]]}
    assert plan[1].values == {"image_size": [[32, 32], [64, 64]]}
    assert plan[2].values == {"learning_rate": [0.001]}


@pytest.mark.parametrize("file", sorted(GRIDS.glob("*.yaml")), ids=lambda file: file.name)
def test_the_grids_that_come_along_are_valid(file):
    assert read_grid(file).tables


@pytest.mark.parametrize("images", [260 + 130 - 5 - 5 - 40, 205 - 5 - 5 - 40])
def test_all_unlabelled_volumes_of_the_hippocampus_join_within_the_epochs(images):
    grid = read_grid(GRIDS / "hippocampus.yaml")
    for table in grid.tables:
        steps = math.ceil(images / table.settings["method#step_size"])
        needed = table.settings["supervised_epochs"] + table.settings["method#step_epochs"] * steps
        assert needed < table.settings["epochs"]


def change(*path, value):
    """The change of one value of a grid file; None takes it out."""

    def apply(content):
        for part in path[:-1]:
            content = content[part]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return apply


ROWS = ("tables", "methods", "rows")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change("split", value=[0]), r"the grid must be of the keys .*, got 'split': write splits"),
        (change("data", value=None), "the grid must be given with data, got only .*: add data"),
        (change("tables", value={}), "tables must be a mapping"),
        (change("tables", value={"a b": {}}), "tables must be named by letters"),
        (change("tables", "results", value={}), "tables must be of other names than .*, got 'results'"),
        (change("tables", "a_curves", value={}), "tables must be of other names than .*, got 'a_curves'"),
        (change("config", value="../../jsrt_rpg/configs/train.json"), "config must be files of the bundle"),
        (change("config", value="trian.json"), r"config must be files of the bundle.*, got 'trian\.json'"),
        (
            change("data", "layout", value="x"),
            "data must be a mapping with one of .*, got .*phantom.*layout: give exactly",
        ),
        (
            change("data", value={"cifar": 1}),
            "data must be a mapping with one of phantom, layout, datalists, got cifar",
        ),
        (
            change("bundle", value="jsrt"),
            r"bundle must be one of acdc_rank_weighting, acdc_unimatch, .*, retouch_rpg, got 'jsrt': write jsrt_rpg",
        ),
        (change("bundle", value=None), "the grid must be given with bundle"),
        (change("score", value="surface_dice"), r"methods\.score must be one that the bundle has, got 'surface_dice'"),
        (change("score", value="accuracy"), r"tables\.methods\.score must be one of iou, dice"),
        (change("seeds", value=[-1]), r"tables\.methods\.seeds must be a list of different whole numbers"),
        (change("config", value="train.json,extended.json"), "data must be datalists for a configuration with fine"),
        (change("splits", value=[]), r"tables\.methods\.splits must be a list of different whole numbers"),
        (change("splits", value=[0, 0]), r"splits must be a list of different .*, got \[0, 0\]"),
        (change("splits", value=None), r"tables\.methods must be given with splits"),
        (change("labeled", value=[3, True]), r"tables\.methods\.labeled must be .*, got \[3, True\]"),
        (change("labeled", value=["three"]), r"tables\.methods\.labeled must be"),
        (change("settings", "epoch", value=3), r"settings\.epoch must be a keyword of .*, got 'epoch': write epochs"),
        (change("settings", "epochs", value="many"), r"settings\.epochs must be a whole number of at least 1"),
        (change("settings", "learning_rate", value="high"), r"settings\.learning_rate must be a number, got 'high'"),
        (change("settings", "image_size", value=64), r"settings\.image_size must be a list, got 64"),
        (change("settings", "output_dir", value="x"), r"settings\.output_dir must be a keyword"),
        (change("settings", "optimizer#speed", value=1), r"settings\.optimizer#speed must be"),
        (
            change("tables", "methods", "row", value=[]),
            r"tables\.methods must be of the keys .*, got 'row': write rows",
        ),
        (change("tables", "methods", "baseline", value=None), r"tables\.methods must be given with baseline"),
        (change(*ROWS, value=[]), r"tables\.methods\.rows must be a list of rows, got \[\]"),
        (change(*ROWS, 2, "method", value="RGP"), r"rows\[2\]\.method must be one of .*, got 'RGP': write RPG"),
        (change(*ROWS, 0, "neighbors", value=3), r"rows\[0\]\.neighbors must be a keyword of Supervised or a setting"),
        (change(*ROWS, 2, "neighbors", value=[]), r"rows\[2\]\.neighbors must be a value or a list of different"),
        (change(*ROWS, 2, "neighbors", value=[0.5, 0.5]), r"rows\[2\]\.neighbors must be a value or a list"),
        (change(*ROWS, 2, "neighbors", value="half"), r"rows\[2\]\.neighbors must be a number, got 'half'"),
        (change(*ROWS, 2, "threshold", value=0.8), r"rows\[2\]\.threshold must be a keyword of RPG"),
        (change("tables", "methods", "columns", value="neighbors"), r"rows\[0\] must be given with neighbors"),
        (change("tables", "shares", "curves", value="accepted"), r"tables\.shares\.curves must be a list of columns"),
        (change("tables", "shares", "columns", value="depth"), r"tables\.shares\.columns must be a keyword of RPG"),
        (
            change("tables", "shares", "rows", 0, "neighbors", value=[1, 0.5, 1.0]),
            r"tables\.shares\.columns must be a setting with single values .*neighbors\), got 1 and 1\.0: make them",
        ),
        (
            change(
                "tables",
                "shares",
                value={
                    "baseline": "RPG",
                    "labeled": 3,
                    "columns": "image_size",
                    "rows": [{"method": "RPG", "image_size": [32, 32]}],
                },
            ),
            r"tables\.shares\.columns must be a setting with single values .*image_size\), got \[32, 32\]: make",
        ),
        (change("tables", "shares", "labeled", value=[3, 4]), r"tables\.shares\.labeled must be one number"),
    ],
)
def test_refusals_name_file_key_what_was_found_and_what_to_do(write, tiny, changed, message):
    changed(tiny)
    with pytest.raises(ValueError, match=message) as error:
        read_grid(write(tiny))
    assert "grid.yaml: " in str(error.value)


@pytest.mark.parametrize("name", ["epochs", "val_interval", "labeled_batch"])
@pytest.mark.parametrize("value", [None, "$2", 2.5, 0, True])
def test_what_the_grid_counts_with_is_a_whole_number(write, tiny, name, value):
    tiny["tables"]["methods"]["rows"][2][name] = value
    with pytest.raises(GridError, match=rf"rows\[2\]\.{name} must be a whole number of at least 1, got "):
        read_grid(write(tiny), trusted=True)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("settings", "learning_rate"), "$__import__('os').system('true')", "settings.learning_rate"),
        (("settings", "cache_dir"), "%other.json::cache_dir", "settings.cache_dir"),
        (("settings", "loss"), {"_target_": "os.system", "command": "true"}, r"settings.loss._target_"),
        (("settings", "method#_target_"), "subprocess.run", "settings.method#_target_"),
        (("settings", "loss"), {"_target_": "common.losses.Dice", "_mode_": "debug"}, "settings.loss._mode_"),
        (("settings", "loss"), {"_target_": "common.losses.Dice", "_debug_": True}, "settings.loss._debug_"),
        (("settings", "loss"), {"_target_": "monai.losses.PerceptualLoss"}, "settings.loss._target_"),
        (("settings", "network_def::_target_"), "os.system", "settings.network_def::_target_"),
        (("settings", "network_def#_target_"), "monai.networks.nets.os.system", "settings.network_def#_target_"),
        ((*ROWS, 2, "view"), [{"views": [{"_target_": "common.fit.fit"}]}], r"rows[2].view[0].views[0]._target_"),
        (("data", "images"), "$open('x', 'w')", "data.images"),
    ],
)
def test_what_would_run_code_is_refused_unless_the_file_is_trusted(write, tiny, place, value, named):
    change(*place, value=value)(tiny)
    text = rf"{re.escape(named)} must be a value that runs no code, got .*: pass --trusted"
    with pytest.raises(GridError, match=text):
        read_grid(write(tiny))
    with pytest.raises(GridError, match=text):
        run_and_report(write(tiny), "nowhere", dry_run=True)


def test_expressions_and_null_are_values_of_other_settings(write, tiny):
    tiny["settings"] |= {"learning_rate": "$2 * 0.01", "iterations": None}
    assert read_grid(write(tiny), trusted=True).tables[0].settings["learning_rate"] == "$2 * 0.01"


def test_a_file_that_is_no_yaml_or_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_grid(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("tables: [")
    with pytest.raises(ValueError, match="must be YAML"):
        read_grid(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("tables: {a: 1,\n  a: 2}")
    with pytest.raises(ValueError, match=r"'a' is there 2 times in one mapping .*line 1"):
        read_grid(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bundle: \u00e4".encode("latin-1"), "must be text in UTF-8, got other bytes .*: save it as text in UTF-8"),
        ("bundle: a".encode("utf-16"), "must be text in UTF-8, got other bytes"),
        ("bundle: a".encode("utf-16-le"), "must be text in UTF-8, got 9 bytes of zero"),
        (b"[" * 5000, "must be YAML, got brackets or names within themselves"),
        (b"a: &a [*a]", "must be YAML, got brackets or names within themselves"),
        (b"? [a]\n: b\n", "must be YAML .* a list or mapping is a key"),
        (b"", "the grid must be a mapping with bundle"),
    ],
)
def test_a_damaged_grid_file_is_named(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)bad\.yaml.* {message}"):
        read_grid(tmp_path / "bad.yaml")
