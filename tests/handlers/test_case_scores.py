"""The table of cases and the masks that an evaluator of a stub network leaves."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, LoadImage
from torch import nn

from common.handlers import CaseScores
from common.handlers import case_scores as module
from common.handlers.scores import short_names
from common.label_space import LabelSpace
from common.metrics import lesion_scores, mask_scores, slice_scores

AFFINE = np.array([[-1.5, 0, 0, 90], [0, 0, 2.0, -50], [0, 1.0, 0, -70], [0, 0, 0, 1]])  # voxels of 3 mm^3
SPACING = (1.5, 1.0, 2.0)
LESION = LabelSpace(["lesion"])
FILES = ["/data/p2/flair.nii.gz", "/data/p1/flair.nii.gz", "/data/other.nii.gz"]


def scores_of_lesions(path, folder=None, **keywords):
    return CaseScores(path, LESION, folder, unit="mm", ignore_empty=False, lesions=keywords)


def volumes(files, seed=0):
    """Images whose positive voxels are what the network predicts, and labels near them; the last has no lesion."""
    random = np.random.default_rng([seed, 3])
    items = []
    for index, file in enumerate(files):
        truth = (random.random((6, 7, 8)) < 0.05) * (index < len(files) - 1)
        image = np.where(truth ^ (random.random(truth.shape) < 0.03), 1.0, -1.0)
        label = file.replace("flair", "lesions")
        items.append(
            {
                "image": MetaTensor(
                    torch.from_numpy(image)[None].float(), affine=AFFINE, meta={"filename_or_obj": file}
                ),
                "label": MetaTensor(
                    torch.from_numpy(truth)[None].float(), affine=AFFINE, meta={"filename_or_obj": label}
                ),
            }
        )
    return items


def evaluate(handler, items, postprocessing=AsDiscreted("pred", threshold=0.0)):  # noqa: B008
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=nn.Identity(),
        postprocessing=postprocessing,
        val_handlers=[handler],
    ).run()


def test_a_row_for_each_volume_and_its_mask(tmp_path):
    items = volumes(FILES)
    evaluate(scores_of_lesions(tmp_path / "eval" / "test.csv", tmp_path / "eval" / "masks"), items)
    table = pd.read_csv(tmp_path / "eval" / "test.csv").set_index("case")
    assert table.index.tolist() == ["other", "p1_flair", "p2_flair"]
    assert table.columns.tolist()[-3:] == ["image", "truth", "prediction"]
    assert set(table["class"]) == {"lesion"} and set(table["unit"]) == {"ml"}
    for item, case in zip(items, ["p2_flair", "p1_flair", "other"], strict=True):
        predicted, true = (item[key].numpy()[0] > 0 for key in ("image", "label"))
        row = table.loc[case]
        assert row["image"] == item["image"].meta["filename_or_obj"]
        assert row["truth"] == item["label"].meta["filename_or_obj"]
        assert row["prediction"] == f"masks/{case}.nii.gz"
        expected = mask_scores(predicted, true, SPACING) | lesion_scores(predicted, true)
        expected |= {"truth_size": true.sum() * 0.003, "predicted_size": predicted.sum() * 0.003}
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-5, nan_ok=True), name
        file = nib.load(tmp_path / "eval" / row["prediction"])
        assert file.get_data_dtype() == np.uint8 and file.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(np.asarray(file.dataobj), predicted)
        np.testing.assert_allclose(file.affine, AFFINE)
        np.testing.assert_allclose(LoadImage()(tmp_path / "eval" / row["prediction"]).affine, AFFINE)
    assert pd.isna(table.loc["other", "sensitivity"]) and table.loc["other", "dice"] == 0
    assert len(list((tmp_path / "eval" / "masks").iterdir())) == 3


def test_without_a_folder_there_are_no_masks(tmp_path):
    evaluate(scores_of_lesions(tmp_path / "test.csv"), volumes(FILES))
    assert [path.name for path in tmp_path.iterdir()] == ["test.csv"]
    assert pd.read_csv(tmp_path / "test.csv")["prediction"].isna().all()


def test_evaluating_again_replaces_rows_and_masks(tmp_path):
    handler = scores_of_lesions(tmp_path / "test.csv", tmp_path)
    (tmp_path / ".0_7.part.nii.gz").write_text("of a run that was killed")
    evaluate(handler, volumes(FILES))
    items = volumes(FILES, seed=1)
    evaluate(handler, items)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["other.nii.gz", "p1_flair.nii.gz", "p2_flair.nii.gz", "test.csv"]
    mask = np.asarray(nib.load(tmp_path / "p2_flair.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, items[0]["image"].numpy()[0] > 0)
    assert len(pd.read_csv(tmp_path / "test.csv")) == 3


def test_options_of_the_scores(tmp_path):
    items = volumes(FILES[:2])
    evaluate(scores_of_lesions(tmp_path / "test.csv", min_overlap=2, connectivity=6), items)
    row = pd.read_csv(tmp_path / "test.csv").set_index("case").loc["p2_flair"]
    expected = lesion_scores(*(items[0][key].numpy()[0] > 0 for key in ("image", "label")), 2, 6)
    assert row["lesion_f1"] == pytest.approx(expected["lesion_f1"], rel=1e-5)
    assert row["truth_lesions"] == expected["truth_lesions"]


def test_rows_of_other_processes_and_volumes_dealt_out_twice(tmp_path, monkeypatch):
    items = volumes(FILES)
    monkeypatch.setattr(module, "rank", lambda: 1)
    monkeypatch.setattr(module, "is_first_rank", lambda: False)
    second = scores_of_lesions(tmp_path / "test.csv", tmp_path / "masks")
    evaluate(second, [items[1], items[0]])
    assert not (tmp_path / "test.csv").exists()
    others = [json.dumps(row) for row in second.cases]
    monkeypatch.setattr(module, "rank", lambda: 0)
    monkeypatch.setattr(module, "is_first_rank", lambda: True)
    monkeypatch.setattr(module, "string_list_all_gather", lambda own: [*own, "", *others])  # "": of none
    evaluate(scores_of_lesions(tmp_path / "test.csv", tmp_path / "masks"), [items[0], items[2]])
    assert pd.read_csv(tmp_path / "test.csv")["case"].tolist() == ["other", "p1_flair", "p2_flair"]
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == ["other.nii.gz", "p1_flair.nii.gz", "p2_flair.nii.gz"]
    for item, name in zip(items, ["p2_flair", "p1_flair", "other"], strict=True):
        mask = np.asarray(nib.load(tmp_path / "masks" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(mask, item["image"].numpy()[0] > 0)


def test_one_image_with_the_labels_of_two_raters(tmp_path):
    items = volumes(FILES[:1] * 2)
    items[1]["label"].meta["filename_or_obj"] = "/data/p2/lesions_of_another.nii.gz"
    evaluate(scores_of_lesions(tmp_path / "test.csv", tmp_path), items)
    table = pd.read_csv(tmp_path / "test.csv")
    assert sorted(table["case"]) == ["data_p2_flair", "data_p2_flair_2"]
    assert table["truth"].nunique() == 2 and all((tmp_path / name).exists() for name in table["prediction"])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([], []),
        (["/a/x", "/a/y"], ["x", "y"]),
        (["/s/1/x", "/s/2/x", "/s/2/y"], ["1_x", "2_x", "y"]),
        (["/1/t/x", "/2/t/x", "/3/u/x"], ["1_t_x", "2_t_x", "u_x"]),
        (["x", "x", "x_2", "x"], ["x", "x_3", "x_2", "x_4"]),
        (["/a/x", "x"], ["a_x", "x"]),
    ],
)
def test_short_names_are_unique(files, names):
    assert short_names([module.Path(file) for file in files]) == names


def picture(file, image, label):
    meta = {"filename_or_obj": file}
    return {"image": MetaTensor(torch.from_numpy(image), meta=meta), "label": torch.from_numpy(label)}


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
def test_several_classes_in_2d(tmp_path, mode):
    labels = LabelSpace(["lung", "heart"], mode)
    truth = np.zeros((2, 5, 6))
    truth[0, :2], truth[1, 3, :3] = 1, 1
    image = truth.copy()
    image[0, 0, 0] = 0
    bare = np.zeros_like(truth)
    items = [
        {
            "image": MetaTensor(torch.from_numpy(array), meta={"filename_or_obj": f"{name}.png"}),
            "label": torch.from_numpy(label),
        }
        for name, array, label in (("a", image, truth), ("b", image, bare))
    ]
    evaluate(CaseScores(tmp_path / "test.csv", labels, tmp_path), items, postprocessing=None)
    table = pd.read_csv(tmp_path / "test.csv")
    assert table["case"].tolist() == ["a", "a", "b", "b"] and table["class"].tolist() == ["lung", "heart"] * 2
    assert table["iou"].iloc[:2].tolist() == [pytest.approx(11 / 12), 1] and table["iou"].iloc[2:].isna().all()
    assert table["hausdorff95"].iloc[1] == 0 and table["surface_dice"].isna().all() and set(table["unit"]) == {"pixels"}
    assert table["truth_size"].tolist() == [12, 3, 0, 0] and table["predicted_size"].tolist() == [11, 3, 11, 3]
    assert "lesion_f1" not in table
    saved = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    if mode == "multilabel":
        np.testing.assert_array_equal(saved, np.moveaxis(image, 0, -1))
    else:
        np.testing.assert_array_equal(saved, image[0] + 2 * image[1])


def test_an_empty_truth_is_scored_where_asked_for(tmp_path):
    zero = np.zeros((1, 4, 4))
    items = [
        {
            "image": MetaTensor(torch.from_numpy(zero), meta={"filename_or_obj": "a.png"}),
            "label": torch.from_numpy(zero),
        }
    ]
    evaluate(CaseScores(tmp_path / "test.csv", LESION, ignore_empty=False), items, postprocessing=None)
    assert pd.read_csv(tmp_path / "test.csv")["dice"].tolist() == [1]


def test_predictions_under_mixed_precision(tmp_path):
    """Which leaves them in bfloat16."""
    ones = np.ones((1, 4, 4))
    item = picture("a.png", ones, ones)
    item["image"] = item["image"].bfloat16()
    evaluate(CaseScores(tmp_path / "test.csv", LESION, tmp_path), [item], postprocessing=None)
    assert pd.read_csv(tmp_path / "test.csv")["dice"].tolist() == [1]


def test_small_volumes_in_mm3(tmp_path):
    """Voxels of retinal OCT: one is some millionths of a mm3, and the table keeps its digits."""
    items, spacing = volumes(FILES), (0.0116, 0.00195, 0.0473)
    for item in items:
        item["image"].affine = np.diag([*spacing, 1])
    tables = {}
    for unit in ("mm3", "ml"):
        evaluate(CaseScores(tmp_path / "test.csv", LESION, unit="mm", volume_unit=unit), items)
        tables[unit] = pd.read_csv(tmp_path / "test.csv").set_index("case")
        assert set(tables[unit]["unit"]) == {unit}
    for item, case in zip(items, ["p2_flair", "p1_flair", "other"], strict=True):
        for key, column in (("label", "truth_size"), ("image", "predicted_size")):
            expected = (item[key].numpy() > 0).sum() * np.prod(spacing)
            assert tables["mm3"].loc[case, column] == pytest.approx(expected, rel=5e-6, abs=0)
            assert tables["ml"].loc[case, column] == pytest.approx(expected / 1000, rel=5e-6, abs=0)
    pd.testing.assert_series_equal(tables["mm3"]["hausdorff95"], tables["ml"]["hausdorff95"])
    evaluate(CaseScores(tmp_path / "test.csv", LESION, unit="pixels", volume_unit="mm3"), items)
    assert set(pd.read_csv(tmp_path / "test.csv")["unit"]) == {"voxels"}


def test_areas_stay_in_mm2(tmp_path):
    item = picture("a.png", np.ones((1, 4, 4)), np.ones((1, 4, 4)))
    item["image"].affine = np.diag([0.5, 0.5, 1, 1])
    handler = CaseScores(tmp_path / "test.csv", LESION, unit="mm", volume_unit="mm3")
    evaluate(handler, [item], postprocessing=None)
    assert pd.read_csv(tmp_path / "test.csv")[["truth_size", "unit"]].values.tolist() == [[4, "mm2"]]


@pytest.mark.parametrize(("unit", "pixel"), [("pixels", 1), ("mm", 1.5)])
def test_slices_of_volumes_with_false_areas(tmp_path, unit, pixel):
    """Slices lie along the last axis, 2 mm apart; their pixels are 1.5 mm by 1 mm, turned and mirrored."""
    items = volumes(FILES)
    evaluate(CaseScores(tmp_path / "test.csv", LESION, unit=unit, slices=True), items)
    table = pd.read_csv(tmp_path / "test.csv").set_index("case")
    for item, case in zip(items, ["p2_flair", "p1_flair", "other"], strict=True):
        predicted, true = (item[key].numpy()[0] > 0 for key in ("image", "label"))
        expected = slice_scores(predicted, true)
        expected["false_positive_area"] *= pixel
        for name, value in expected.items():
            assert table.loc[case, name] == pytest.approx(value, rel=1e-5, nan_ok=True), name
    evaluate(CaseScores(tmp_path / "test.csv", LESION), items)
    assert "slice_dice" not in pd.read_csv(tmp_path / "test.csv")


def logged(handler, items, caplog):
    evaluate(handler, items, postprocessing=None)
    caplog.clear()
    with caplog.at_level("INFO"):
        handler.write(SimpleNamespace(logger=logging.getLogger("of_the_test")))
    return [record.getMessage() for record in caplog.records]


def test_presence_is_logged_where_a_case_lacks_a_class(tmp_path, caplog):
    labels, full, empty = LabelSpace(["lung", "heart"]), np.ones((4, 4)), np.zeros((4, 4))
    one = empty.copy()
    one[0, 0] = 1
    truths = [(full, full), (full, empty), (full, full), (full, empty)]
    hearts = [full, empty, empty, one]  # of the two that have one, one is missed; of the others, one has a pixel
    items = [
        picture(f"{name}.png", np.stack([full, heart]), np.stack(truth))
        for name, truth, heart in zip("abcd", truths, hearts, strict=True)
    ]
    handler = CaseScores(tmp_path / "test.csv", labels)
    means, presence = logged(handler, items, caplog)
    assert means.startswith("Mean over 4 cases:")
    head, names, _, *lines = presence.splitlines()
    assert head.startswith("Presence of classes; one is detected in a case where any of it is predicted; sizes in pix")
    columns = "cases_with cases_without sensitivity specificity auc absolute_size_error size_error"
    assert " ".join(names.split()) == columns
    # pairs: 16 over 0 and 1; 0 over 0 (a tie) and under 1. Errors: 0, 0, -16, 1
    found = [line.split() for line in lines]
    assert found == [["lung", "4", "0", "1", "-", "-", "0", "0"],
                     ["heart", "2", "2", "0.5", "0.5", "0.625", "4.25", "-3.75"]]  # fmt: skip
    assert len(logged(handler, items[:1], caplog)) == 1


def test_unknown_units(tmp_path):
    with pytest.raises(ValueError, match=r"unit must be one of .*, got 'cm'"):
        CaseScores(tmp_path / "test.csv", LESION, unit="cm")
    with pytest.raises(ValueError, match=r"volume_unit must be one of \('ml', 'mm3'\), got 'cm3'"):
        CaseScores(tmp_path / "test.csv", LESION, unit="mm", volume_unit="cm3")


def test_bad_volumes_are_named(tmp_path):
    handler = scores_of_lesions(tmp_path / "test.csv")
    with pytest.raises(ValueError, match=r"pred of /data/p2/flair.nii.gz must be masks of 0 and 1, .* -1 to 1"):
        evaluate(handler, volumes(FILES), postprocessing=None)
    items = volumes(FILES)
    items[1]["label"] = items[1]["label"][:, 1:]
    with pytest.raises(
        ValueError, match=r"label of /data/p1/flair.nii.gz must have one shape.* \(1, 6, 7, 8\) and \(1, 5, 7, 8\)"
    ):
        evaluate(handler, [items[1]])
    items[0]["label"] = items[0]["label"].repeat(2, 1, 1, 1)
    with pytest.raises(
        ValueError, match=r"label of .* must be a mask for each class \(lesion\), .* shape \(2, 6, 7, 8\)"
    ):
        evaluate(handler, [items[0]])
    items[2]["image"].affine = np.diag([1.0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"The image of /data/other.nii.gz must have an affine"):
        evaluate(handler, [items[2]])
