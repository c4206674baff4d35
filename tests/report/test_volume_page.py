"""Pages of runs on volumes: complete, self-contained, and honest about what is missing."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from runs_on_disk import make_volume_run, save

from common.report import render
from common.report.pseudo_labels import image_names


def page_of(folder: Path) -> str:
    """The page's source; every picture is inside it and has a text."""
    source = render(folder).read_text(encoding="utf-8")
    pictures = re.findall(r"<img[^>]*>", source)
    assert all(
        'src="data:image/png;base64,' in picture and re.search(r'alt="[^"]{10,}"', picture) for picture in pictures
    )
    assert "<script" not in source
    return source


def text_of(source: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", source, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_run_becomes_one_self_contained_page(volume_run: Path) -> None:
    source = page_of(volume_run)
    text = text_of(source)
    scores = pd.read_csv(volume_run / "test.csv")
    assert "POPCORN on phantom, split 0, seed 3" in text
    assert f"Mean IoU {scores['iou'].mean():.3f}, Dice {scores['dice'].mean():.3f} on the test cases." in text
    for title, column in (("precision", "precision"), ("sensitivity", "sensitivity"), ("surface Dice", "surface_dice")):
        values = scores[column]
        assert f"{title} {values.mean():.3f} ± {values.std():.3f} {values.median():.3f} 2" in text
    error = (scores["predicted_size"] - scores["truth_size"]).abs()
    assert f"|size error|, ml {error.mean():.2f} ± {error.std():.2f} {error.median():.2f} 2" in text
    assert "Hausdorff 95 %, mm 3.60" in text
    assert "Case Dice IoU" in text
    assert "truth, ml prediction, ml lesions in truth lesions in prediction" in text
    for name in ("true positive", "false positive", "false negative", "Radiological convention"):
        assert name in text
    assert text.index("lowest Dice") < text.index("highest Dice")
    assert re.search(r"1 2 3\.50 0\.\d{3} ", text), "step 1: two images with the scores 3 and 4"
    assert re.search(r"2 2 5\.50 0\.\d{3} \(1 known\)", text)
    assert "The truth is known for 3 of 4." in text
    assert "subject05_flair the pseudo-label is empty" in text
    assert "4 of 4 to join, step 2: subject03_flair" in text
    # Two volumes with 4 views each, 4 pseudo-labels, and 8 charts in two colour schemes each.
    assert source.count("<img") == 2 * 4 + 4 + 8 * 2
    assert "nan" not in text.lower()


def test_a_run_before_its_evaluation(volume_run: Path) -> None:
    (volume_run / "test.csv").unlink()
    text = text_of(page_of(volume_run))
    assert "There are no scores yet" in text
    assert "Dice of each pseudo-label over the steps" in text


def test_files_that_have_gone_are_said_to_be_missing(volume_run: Path) -> None:
    shutil.rmtree(volume_run / "predictions")
    for path in (volume_run / "pseudo_labels").glob("*.nii.gz"):
        path.unlink()
    (volume_run / "pseudo_labels" / "latents.npz").unlink()
    source = page_of(volume_run)
    text = text_of(source)
    assert text.count("No pictures: ") == 2
    assert source.count('class="missing"') == 4
    assert "There is no map of the latent space" in text


def test_a_truth_in_no_file_and_a_file_that_is_no_volume(volume_run: Path) -> None:
    table = pd.read_csv(volume_run / "test.csv").assign(truth="")
    (volume_run / table["prediction"][0]).write_text("broken")
    table.to_csv(volume_run / "test.csv", index=False)
    text = text_of(page_of(volume_run))
    assert "must be a readable volume" in text
    assert "prediction where the truth is not known" in text


def test_files_of_pictures_are_no_volumes(volume_run: Path) -> None:
    table = pd.read_csv(volume_run / "test.csv")
    for change in ({"unit": "pixels"}, {"prediction": "mask.png"}, {"image": np.nan}):
        table.assign(**change).to_csv(volume_run / "test.csv", index=False)
        assert "No pictures of cases were saved" in text_of(page_of(volume_run))


def test_volumes_of_several_classes(tmp_path: Path, volumes: dict) -> None:
    """Two classes in a label map against a truth of a file each."""
    image, truth = volumes["test"][0]
    run = make_volume_run(tmp_path / "run", "A", classes=("core", "rim"))
    mask = np.asanyarray(nibabel.load(truth).dataobj)
    save(run / "p.nii.gz", (mask * (1 + (np.arange(40) > 20)[:, None, None])).astype(np.uint8))
    row = {"case": "x", "iou": 0.5, "dice": 0.6, "image": image, "truth": f"{truth}|{truth}", "prediction": "p.nii.gz"}
    pd.DataFrame([row | {"class": "core"}, row | {"class": "rim"}]).to_csv(run / "test.csv", index=False)
    source = page_of(run)
    assert "filled: prediction, dashed: truth" in text_of(source)
    assert source.count("<img") == 4 + 6 * 2
    assert "true positive" not in source


def test_scores_that_are_not_defined(volume_run: Path) -> None:
    table = pd.read_csv(volume_run / "test.csv")
    table.loc[0, ["dice", "precision", "lesion_f1", "truth_size"]] = np.nan
    table.to_csv(volume_run / "test.csv", index=False)
    text = text_of(page_of(volume_run))
    assert f"precision {table.loc[1, 'precision']:.3f} {table.loc[1, 'precision']:.3f} 1" in text
    assert "Dice not defined" in text
    assert "nan" not in text.lower()


def test_an_empty_manifest(volume_run: Path) -> None:
    (volume_run / "pseudo_labels" / "manifest.json").write_text('{"images": []}')
    text = text_of(page_of(volume_run))
    assert "No image has joined the training set yet." in text
    assert "No image was set aside." in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.csv", "case,class,iou\n1,lesion,0\n", "must have the columns case, class, iou, dice"),
        ("test.csv", "case,class,iou,dice\na,lesion,1,1\na,lesion,1,1\n", "name each case once per class"),
        ("test.csv", "case,class,iou,dice\n,lesion,1,1\n", "got one twice or none"),
        ("pseudo_labels/manifest.json", "{", "must be valid JSON"),
        ("pseudo_labels/manifest.json", '{"images": [{"image": "a"}]}', "must hold images"),
        ("pseudo_labels/manifest.json", '{"images": [{"image": "a", "step": 1, "dice": "x"}]}', "dice of a must be"),
        ("pseudo_labels/manifest.json", '{"images": [{"image": "a", "step": 1, "neighbors": 3}]}', "neighbors of a"),
        ("pseudo_labels/latents.npz", "no archive", "readable"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(volume_run: Path, name: str, content: str, message: str) -> None:
    (volume_run / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        render(volume_run)
    assert str(volume_run / name) in str(caught.value)
    assert not (volume_run / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "must hold latents, images and steps"),
        ({"steps": np.zeros(4, int)}, r"got the shapes \(9, 16\), \(9,\) and \(4,\)"),
        ({"latents": np.full((9, 16), np.nan)}, "finite"),
    ],
)
def test_malformed_latents_are_named(volume_run: Path, change: dict, message: str) -> None:
    path = volume_run / "pseudo_labels" / "latents.npz"
    arrays = {key: value for key, value in (dict(np.load(path)) | change).items() if value is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        render(volume_run)


def test_a_comparison(volume_comparison: Path) -> None:
    source = page_of(volume_comparison)
    text = text_of(source)
    assert "POPCORN against Supervised" in text
    assert "Comparison of 4 runs on phantom, 2 seeds" in text
    assert "2 cases are too few for p < 0.05 whatever the scores" in text
    frames = {
        name: pd.concat(pd.read_csv(volume_comparison / f"{name}{s}" / "test.csv").assign(seed=s) for s in range(2))
        for name in ("sup", "pop")
    }
    for score in ("iou", "dice", "precision"):
        means = {name: frame.groupby("seed")[score].mean() for name, frame in frames.items()}
        for method, name in (("Supervised", "sup"), ("POPCORN", "pop")):
            assert f" {means[name].mean():.3f} ± {means[name].std():.3f} " in text, (method, score)
        assert f"{(means['pop'] - means['sup']).mean():+.3f} " in text
    size = frames["pop"].assign(error=lambda t: (t["predicted_size"] - t["truth_size"]).abs())
    size = size.groupby("seed")["error"].mean()
    assert f"{size.mean():.2f} ± {size.std():.2f} 2 2 " in text
    assert "p = 0.500 2 2 " in text
    assert "Order of joining: POPCORN" in text
    # Dots and losses, two volumes with their image and two methods, and the map, Dice and pictures of pseudo-labels.
    assert source.count("<img") == 2 * 2 + 2 * 3 + 2 * 2 + 4


def test_a_comparison_with_gaps(volume_comparison: Path) -> None:
    (volume_comparison / "pop1" / "test.csv").unlink()
    table = pd.read_csv(volume_comparison / "pop0" / "test.csv")
    table.iloc[1:].to_csv(volume_comparison / "pop0" / "test.csv", index=False)
    text = text_of(page_of(volume_comparison))
    assert "Left out of tables, with no test scores yet: POPCORN split 0, seed 1." in text
    assert "not run on the same splits and seeds" in text
    assert "not tested on the same cases" in text
    assert "in a single case: 0." in text
    assert "POPCORN, split 0, seed 0" in text


def test_the_first_run_with_volumes_is_shown(volume_comparison: Path) -> None:
    (volume_comparison / "pop0" / "test.csv").unlink()
    text = text_of(page_of(volume_comparison))
    assert "POPCORN, split 0, seed 1" in text
    assert "Supervised, split 0, seed 0" in text


def test_names_of_images_are_short_but_tell_them_apart() -> None:
    assert image_names(["/a/x.nii.gz", "/b/y.nii"]) == ["x", "y"]
    assert image_names(["/d/p1/flair.nii.gz", "/d/p2/flair.nii.gz"]) == ["p1/flair", "p2/flair"]
