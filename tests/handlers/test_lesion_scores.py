"""The table of volumes and the masks that an evaluator of a stub network leaves."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, LoadImage
from torch import nn

from common.handlers import LesionScores
from common.handlers import lesion_scores as module
from common.handlers.lesion_scores import short_names
from common.metrics import lesion_scores

AFFINE = np.array([[-1.5, 0, 0, 90], [0, 0, 2.0, -50], [0, 1.0, 0, -70], [0, 0, 0, 1]])  # voxels of 3 mm^3
FILES = ["/data/p2/flair.nii.gz", "/data/p1/flair.nii.gz", "/data/other.nii.gz"]


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
    evaluate(LesionScores(tmp_path / "eval" / "volumes.csv", tmp_path / "eval" / "masks"), items)
    table = pd.read_csv(tmp_path / "eval" / "volumes.csv").set_index("case")
    assert table.index.tolist() == ["other", "p1_flair", "p2_flair"]
    assert table.columns.tolist()[:3] == ["image", "label", "prediction"]
    for item, case in zip(items, ["p2_flair", "p1_flair", "other"], strict=True):
        predicted, true = (item[key].numpy()[0] > 0 for key in ("image", "label"))
        row = table.loc[case]
        assert row["image"] == item["image"].meta["filename_or_obj"]
        assert row["label"] == item["label"].meta["filename_or_obj"]
        assert row["prediction"] == f"masks/{case}.nii.gz"
        for name, value in lesion_scores(predicted, true, voxel_ml=0.003).items():
            assert row[name] == pytest.approx(value, rel=1e-5, nan_ok=True), name
        file = nib.load(tmp_path / "eval" / row["prediction"])
        assert file.get_data_dtype() == np.uint8 and file.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(np.asarray(file.dataobj), predicted)
        np.testing.assert_allclose(file.affine, AFFINE)
        np.testing.assert_allclose(LoadImage()(tmp_path / "eval" / row["prediction"]).affine, AFFINE)
    assert pd.isna(table.loc["other", "sensitivity"]) and table.loc["other", "dice"] == 0
    assert len(list((tmp_path / "eval" / "masks").iterdir())) == 3


def test_without_a_folder_there_are_no_masks(tmp_path):
    evaluate(LesionScores(tmp_path / "volumes.csv"), volumes(FILES))
    assert [path.name for path in tmp_path.iterdir()] == ["volumes.csv"]
    assert pd.read_csv(tmp_path / "volumes.csv")["prediction"].isna().all()


def test_evaluating_again_replaces_rows_and_masks(tmp_path):
    handler = LesionScores(tmp_path / "volumes.csv", tmp_path)
    (tmp_path / ".0_7.part.nii.gz").write_text("of a run that was killed")
    evaluate(handler, volumes(FILES))
    items = volumes(FILES, seed=1)
    evaluate(handler, items)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["other.nii.gz", "p1_flair.nii.gz", "p2_flair.nii.gz", "volumes.csv"]
    mask = np.asarray(nib.load(tmp_path / "p2_flair.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, items[0]["image"].numpy()[0] > 0)
    assert len(pd.read_csv(tmp_path / "volumes.csv")) == 3


def test_options_of_the_scores(tmp_path):
    items = volumes(FILES[:2])
    evaluate(LesionScores(tmp_path / "volumes.csv", min_overlap=2, connectivity=6), items)
    row = pd.read_csv(tmp_path / "volumes.csv").set_index("case").loc["p2_flair"]
    expected = lesion_scores(*(items[0][key].numpy()[0] > 0 for key in ("image", "label")), 0.003, 2, 6)
    assert row["lesion_f1"] == pytest.approx(expected["lesion_f1"], rel=1e-5)
    assert row["truth_lesions"] == expected["truth_lesions"]


def test_rows_of_other_processes_and_volumes_dealt_out_twice(tmp_path, monkeypatch):
    items = volumes(FILES)
    monkeypatch.setattr(module, "rank", lambda: 1)
    monkeypatch.setattr(module, "is_first_rank", lambda: False)
    second = LesionScores(tmp_path / "volumes.csv", tmp_path / "masks")
    evaluate(second, [items[1], items[0]])
    assert not (tmp_path / "volumes.csv").exists()
    others = [json.dumps(row) for row in second.rows]
    monkeypatch.setattr(module, "rank", lambda: 0)
    monkeypatch.setattr(module, "is_first_rank", lambda: True)
    monkeypatch.setattr(module, "string_list_all_gather", lambda own: [*own, "", *others])  # "": of none
    evaluate(LesionScores(tmp_path / "volumes.csv", tmp_path / "masks"), [items[0], items[2]])
    assert pd.read_csv(tmp_path / "volumes.csv")["case"].tolist() == ["other", "p1_flair", "p2_flair"]
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == ["other.nii.gz", "p1_flair.nii.gz", "p2_flair.nii.gz"]
    for item, name in zip(items, ["p2_flair", "p1_flair", "other"], strict=True):
        mask = np.asarray(nib.load(tmp_path / "masks" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(mask, item["image"].numpy()[0] > 0)


def test_one_image_with_the_labels_of_two_raters(tmp_path):
    items = volumes(FILES[:1] * 2)
    items[1]["label"].meta["filename_or_obj"] = "/data/p2/lesions_of_another.nii.gz"
    evaluate(LesionScores(tmp_path / "volumes.csv", tmp_path), items)
    table = pd.read_csv(tmp_path / "volumes.csv")
    assert sorted(table["case"]) == ["data_p2_flair", "data_p2_flair_2"]
    assert table["label"].nunique() == 2 and all((tmp_path / name).exists() for name in table["prediction"])


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


def test_bad_volumes_are_named(tmp_path):
    handler = LesionScores(tmp_path / "volumes.csv")
    with pytest.raises(ValueError, match=r"pred of /data/p2/flair.nii.gz must be a mask of 0 and 1, .* -1 to 1"):
        evaluate(handler, volumes(FILES), postprocessing=None)
    items = volumes(FILES)
    items[1]["label"] = items[1]["label"][:, 1:]
    with pytest.raises(
        ValueError, match=r"label of /data/p1/flair.nii.gz must have one shape.* \(6, 7, 8\) and \(5, 7, 8\)"
    ):
        evaluate(handler, [items[1]])
    items[0]["label"] = items[0]["label"].repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"label of .* must be one mask, .* shape \(2, 6, 7, 8\)"):
        evaluate(handler, [items[0]])
    items[2]["image"].affine = np.diag([1.0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"The image of /data/other.nii.gz must have an affine"):
        evaluate(handler, [items[2]])
