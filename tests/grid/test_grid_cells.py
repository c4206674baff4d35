"""From tables to cells: axes, cells that tables share, and names that change with every setting."""

from __future__ import annotations

import json
import shutil

import pytest

from common.bundle_run import BUNDLES
from common.grid import cells as module


def test_axes_are_spanned_into_rows_and_columns(spread_out, tiny):
    methods, shares = spread_out(tiny).tables
    assert [row.name for row in methods.rows] == ["Supervised", "Nearest", "RPG"]
    assert list(methods.rows[0].cells) == [(3, (0, 0)), (3, (1, 0)), (4, (0, 0)), (4, (1, 0))]
    assert [row.name for row in shares.rows] == ["RPG, p = 2", "RPG, p = 3"]
    assert shares.columns == [0.5, 1.0]
    assert list(shares.rows[0].cells) == [(0.5, (0, 0)), (0.5, (1, 0)), (1.0, (0, 0)), (1.0, (1, 0))]


def test_a_value_that_is_a_list_of_one_makes_no_name_longer(spread_out, tiny):
    tiny["tables"]["shares"] |= {"columns": "labeled", "baseline": "RPG, k = 50 %"}
    tiny["tables"]["shares"]["rows"] = [{"method": "RPG", "labeled_batch": [2], "neighbors": [0.5, 1000]}]
    assert [row.name for row in spread_out(tiny).tables[1].rows] == ["RPG, k = 50 %", "RPG, k = 1000"]


def test_a_cell_of_two_tables_is_there_once(spread_out, tiny):
    grid = spread_out(tiny)
    methods, shares = grid.tables
    # p = 3 is the bundle's default, and k = 50 % stands in the settings of all tables
    assert shares.rows[1].cells[0.5, (0, 0)] == methods.rows[2].cells[3, (0, 0)]
    assert len(grid.cells) == 3 * 2 * 2 + 2 * 2 * 2 - 2


def test_keywords_go_to_the_methods_that_have_them(spread_out, tiny):
    grid = spread_out(tiny)
    by_method = {cell.method: cell for cell in grid.cells.values()}
    assert by_method["Supervised"].keywords == {}
    assert by_method["NearestNeighbor"].keywords == {"neighbors": 0.5}
    assert by_method["Supervised"].settings == {"epochs": 3, "val_interval": 1}


def test_names_are_readable_and_change_with_every_setting(spread_out, tiny):
    (cell,) = [c for c in spread_out(tiny).cells.values() if c.name.startswith("rpg_labeled3_split1_p2_k1.0_")]
    before = set(spread_out(tiny).cells)
    assert before == set(spread_out(tiny).cells)
    for change in (
        {"settings": {**tiny["settings"], "learning_rate": 0.1}},
        {"settings": {**tiny["settings"], "optimizer#weight_decay": 0.1}},
        {"settings": {**tiny["settings"], "unsupervised_weight": 0.5}},
        {"data": {"phantom": "jsrt", "patients": 24, "size": 64, "seed": 1}},
        {"config": "train.json"},
    ):
        changed = spread_out(tiny | change).cells
        assert cell.name not in changed, change


def test_null_takes_back_what_the_bundle_gives_and_is_another_cell(spread_out, tiny):
    """The method's own default is null, too, but a run without it has the bundle's."""
    tiny |= {"bundle": "acdc_unimatch", "data": {"phantom": "acdc"}, "labeled": 3, "splits": 0, "settings": {}}
    bundle_s = {"_target_": "common.losses.Dice", "background": True, "absent": False}
    losses = {"the bundle's": {}, "none": {"unsupervised_loss": None}, "written": {"unsupervised_loss": bundle_s}}
    rows = [{"name": name, "method": "FixMatch", **row} for name, row in losses.items()]
    tiny["tables"] = {"losses": {"baseline": "none", "rows": rows}}
    grid = spread_out(tiny)
    names = {row.name: list(row.cells.values()) for row in grid.tables[0].rows}
    assert names["the bundle's"] == names["written"] != names["none"]
    assert len(grid.cells) == 2


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A copy of the bundle's configuration, to be changed."""
    shutil.copytree(BUNDLES / "jsrt_rpg" / "configs", tmp_path / "jsrt_rpg" / "configs")
    monkeypatch.setattr("common.grid.grid_file.BUNDLES", tmp_path)
    return tmp_path / "jsrt_rpg" / "configs"


@pytest.mark.parametrize(("name", "key"), [("demo.json", "learning_rate"), ("evaluate.json", "validate#device")])
def test_names_change_with_the_bundle_s_configuration_itself(spread_out, tiny, bundle, name, key):
    before = set(spread_out(tiny).cells)
    content = json.loads((bundle / name).read_text())
    content[key] = 0.123
    (bundle / name).write_text(json.dumps(content))
    assert not before & set(spread_out(tiny).cells)


def test_names_change_with_the_content_of_files_that_settings_name(spread_out, tiny, bundle, tmp_path):
    own = {"extended": "$@bundle_root + '/configs/extended_fusion.json'"}
    (bundle / "demo.json").write_text(json.dumps({**json.loads((bundle / "demo.json").read_text()), **own}))
    named = tmp_path / "fusion.json"
    named.write_text("{}")
    tiny["settings"]["extended"] = str(named)
    names = [set(spread_out(tiny).cells)]
    named.write_text("[]")
    names.append(set(spread_out(tiny).cells))
    del tiny["settings"]["extended"]
    names.append(set(spread_out(tiny).cells))
    (bundle / "extended_fusion.json").write_text("[]")
    names.append(set(spread_out(tiny).cells))
    assert len(set.union(*names)) == 4 * len(names[0])
    assert names[-1] == set(spread_out(tiny).cells)


def test_a_pool_larger_than_all_labelled_images_is_left_out(spread_out, tiny):
    tiny["tables"]["shares"]["rows"][0]["labeled_batch"] = [3, 4]
    with pytest.raises(ValueError, match=r"shares\.rows\[0\] must be trainable with labeled \[3\]"):
        spread_out(tiny)
    tiny["tables"]["shares"] = {
        "baseline": "RPG, p = 3",
        "rows": [{"method": "RPG", "labeled_batch": [3, 4]}],
    }
    table = spread_out(tiny).tables[1]
    assert table.left_out
    assert list(table.rows[1].cells) == [(4, (0, 0)), (4, (1, 0))]


def test_a_larger_pool_is_trained_where_images_are_cut(spread_out, tiny):
    """As in paper.json: windows of one image differ."""
    tiny |= {"config": "train.json,paper.json", "labeled": [3]}
    tiny["tables"] = {"shares": {"baseline": "RPG, p = 3", "rows": [{"method": "RPG", "labeled_batch": [3, 5]}]}}
    table = spread_out(tiny).tables[0]
    assert not table.left_out
    assert [len(row.cells) for row in table.rows] == [2, 2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"baseline": "Supervisd"},
            r"baseline must be the name of a row \(Supervised; Nearest; RPG\), got 'Supervisd'",
        ),
        ({"rows": [{"method": "RPG"}, {"method": "RPG", "ramp_up": 1}]}, r"different names, got 'RPG' twice"),
    ],
)
def test_refusals(spread_out, tiny, table, message):
    tiny["tables"]["methods"] |= table
    with pytest.raises(ValueError, match=message):
        spread_out(tiny)


def test_names_of_cells_are_names_of_folders():
    assert all(name.isascii() and name.isalnum() for name in module.IN_NAME.values())


def test_a_phantom_s_own_numbers_are_part_of_its_name(spread_out, tiny):
    """Of the phantom, `labeled` is how many there are; of a cell, how many are taken."""
    tiny |= {"bundle": "ms_popcorn", "settings": {}, "labeled": 3}
    tiny["tables"] = {"methods": {"baseline": "Popcorn", "rows": [{"method": "Popcorn"}]}}
    names = [
        set(spread_out(tiny | {"data": {"phantom": "ms", "size": 48, **more}}).cells)
        for more in ({}, {"labeled": 6}, {"labeled": 12}, {"scanners": 2})
    ]
    assert names[0] == names[1], "written out with its default"
    assert len(set.union(*names)) == 3 * len(names[0])


def test_seeds_are_draws_too(spread_out, tiny):
    tiny["tables"] = {"methods": tiny["tables"]["methods"] | {"seeds": [0, 1], "labeled": 3}}
    grid = spread_out(tiny)
    assert grid.tables[0].draws == [(0, 0), (0, 1), (1, 0), (1, 1)]
    cells = [grid.cells[name] for name in grid.tables[0].rows[0].cells.values()]
    assert [(cell.split, cell.seed) for cell in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert cells[1].settings["seed"] == 1 and "_seed1_" in cells[1].name and cells[1].title == "Supervised"
    before = {cell.name for cell in spread_out(tiny | {"seeds": [0]}).cells.values()}
    assert cells[0].name in before, "seed 0, which is the bundle's own, is the same cell written out or not"


def test_patches_are_as_many_as_one_likes(spread_out, tiny):
    """Labelled images of a step are then no pool that must be among them."""
    phantom = {"phantom": "ms", "size": 48}
    tiny |= {"bundle": "ms_popcorn", "data": phantom, "settings": {"labeled_batch": 8}, "labeled": 3}
    tiny["tables"] = {"methods": {"baseline": "Popcorn", "rows": [{"method": "Popcorn"}]}}
    grid = spread_out(tiny)
    assert len(grid.cells) == 2 and {cell.pool_size for cell in grid.cells.values()} == {0}
