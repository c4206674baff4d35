"""What methods and pools refuse is found before anything runs."""

from __future__ import annotations

import pytest

from common.data import jsrt_datalist, save_datalist
from common.grid.check import check_pools
from common.grid.make import checked, run_and_report
from common.phantoms.jsrt import make_jsrt_phantom


def test_parts_of_a_method_are_made_and_what_they_refuse_is_said(write, tiny):
    row = tiny["tables"]["methods"]["rows"][2]
    row["added_weight"] = {"_target_": "common.weights.RankSimilarity", "k": 3}
    checked(write(tiny))
    row["added_weight"] = {"_target_": "common.weights.RankSimilarity", "k": 0}
    with pytest.raises(
        ValueError, match=r"rows\[2\]: RPG\(.*'k': 0.*\) is not possible: k and enqueued must be at least"
    ):
        checked(write(tiny))


def test_what_the_bundle_gives_a_method_is_among_its_keywords(write, tiny):
    """Labels alone have nothing to weigh: the row takes the bundle's weight back."""
    tiny |= {"bundle": "acdc_rank_weighting", "data": {"phantom": "acdc"}, "labeled": 3, "settings": {}}
    row = {"method": "Supervised"}
    tiny["tables"] = {"methods": {"baseline": "Supervised", "rows": [row]}}
    with pytest.raises(ValueError, match=r"rows\[0\]: Supervised\(\) is not possible: added_weight needs .*null"):
        checked(write(tiny))
    row["added_weight"] = None
    checked(write(tiny))


def test_values_that_a_method_refuses(write, tiny):
    tiny["tables"]["methods"]["rows"][2]["reference_size"] = [16, 0]
    with pytest.raises(ValueError, match=r"rows\[2\]: RPG\(neighbors=0\.5, reference_size=0\) is not possible"):
        checked(write(tiny))


def test_more_labelled_images_than_patients(write, tiny, tmp_path):
    tiny["labeled"] = [3, 12]
    with pytest.raises(ValueError, match=r"grid\.yaml: data, labeled 12, split 0: labeled must be at most"):
        run_and_report(write(tiny), tmp_path / "out")
    assert not list((tmp_path / "out").glob("cells/*"))


def test_data_without_a_test_part(write, tiny, tmp_path):
    phantom = make_jsrt_phantom(tmp_path / "phantom", patients=20, size=64, seed=0)
    save_datalist(jsrt_datalist(phantom, labeled=3) | {"test": []}, tmp_path / "split0.json")
    tiny |= {"data": {"datalists": {3: ["split0.json"]}}, "labeled": 3, "splits": 0}
    with pytest.raises(ValueError, match="data must be images with a test part, got none with labeled 3, split 0"):
        run_and_report(write(tiny), tmp_path / "out")


def test_a_pool_that_cannot_hold_every_class(write, tiny, tmp_path):
    """Two labelled images, of which one lacks a heart and the other the lungs, need both in the pool."""
    phantom = make_jsrt_phantom(tmp_path / "phantom", patients=20, size=64, seed=0)
    datalist = jsrt_datalist(phantom, labeled=2)
    one, other = (item["label"] for item in datalist["labeled"])
    empty = tmp_path / "empty.gif"
    from PIL import Image

    Image.new("L", (64, 64)).save(empty)
    one[2], other[0] = str(empty), str(empty)
    save_datalist(datalist, tmp_path / "split0.json")
    tiny |= {"data": {"datalists": {2: [str(tmp_path / "split0.json")]}}, "labeled": 2, "splits": 0}
    tiny["settings"]["labeled_batch"] = 2
    del tiny["tables"]["shares"]
    check_pools(*checked(write(tiny)))
    tiny["settings"]["labeled_batch"] = 1
    with pytest.raises(ValueError, match=r"labeled 2, split 0, labeled_batch 1: 1 labelled images"):
        run_and_report(write(tiny), tmp_path / "out")
    # what runs nothing reads no label
    empty.write_text("no image")
    run_and_report(write(tiny), tmp_path / "out", dry_run=True)
    run_and_report(write(tiny), tmp_path / "out", tables_only=True)


def test_numbers_and_folders_that_are_none(write, tiny, tmp_path):
    for cores in (0, -1, 1.5, "abc"):
        with pytest.raises(ValueError, match=f"cores must be a whole number of at least 1, got {cores!r}"):
            run_and_report(write(tiny), tmp_path / "out", cores=cores)
    with pytest.raises(FileNotFoundError, match="out must be the folder of a grid that has run, got none"):
        run_and_report(write(tiny), tmp_path / "out", tables_only=True)
    assert not (tmp_path / "out").exists()
