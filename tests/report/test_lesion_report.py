"""Pages of lesion segmentation runs: complete, self-contained, and honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lesion_runs_on_disk import make_images, make_lesion_run

from common.report import render
from common.report.lesion_runs import find_lesion_runs, holds_lesions
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


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with truths to test on, and others that are not labelled."""
    folder = tmp_path_factory.mktemp("images")
    make_images(folder / "test", 2)
    make_images(folder / "unlabeled", 6, seed=1)
    return folder


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    return [(path, Path(str(path).replace("_flair", "_mask"))) for path in sorted(folder.glob("*_flair.nii.gz"))]


@pytest.fixture
def one_run(tmp_path: Path, images: Path) -> Path:
    test, unlabeled = pairs(images / "test"), pairs(images / "unlabeled")
    return make_lesion_run(tmp_path / "pop", "Popcorn", 3, test, unlabeled, name="POPCORN")


def test_a_run_becomes_one_self_contained_page(one_run: Path) -> None:
    source = page_of(one_run)
    text = text_of(source)
    scores = pd.read_csv(one_run / "volumes.csv")
    assert "POPCORN, seed 3" in text
    assert f"Mean Dice {scores['dice'].mean():.3f} on 2 test volumes." in text
    assert "trained for 2 min 3 s and 100 iterations, on 31 January 2026, 12:05." in text
    assert f"Dice {scores['dice'].mean():.3f} ± {scores['dice'].std():.3f} {scores['dice'].median():.3f} 2" in text
    error = scores["load_error_ml"].abs()
    assert f"|load error|, ml {error.mean():.2f} ± {error.std():.2f} {error.median():.2f} 2" in text
    for name in ("true positive", "false positive", "false negative", "Radiological convention"):
        assert name in text
    assert text.index("lowest Dice") < text.index("highest Dice")
    assert re.search(r"1 2 3\.50 0\.\d{3} ", text), "step 1: two images with the scores 3 and 4"
    assert re.search(r"2 2 5\.50 0\.\d{3} \(1 known\)", text)
    assert "The truth is known for 3 of 4." in text
    assert "subject05_flair the pseudo-label is empty" in text
    assert "4th of 4 to join, step 2: subject03_flair" in text
    # Two volumes with 4 views each, 4 pseudo-labels, and map, Dice and loss in two colour schemes each.
    assert source.count("<img") == 2 * 4 + 4 + 3 * 2
    assert "nan" not in text.lower()


def test_a_run_before_its_evaluation(one_run: Path) -> None:
    (one_run / "volumes.csv").unlink()
    text = text_of(page_of(one_run))
    assert "has not been evaluated on test volumes" in text
    assert "Dice of each pseudo-label over the steps" in text


def test_the_least_that_a_run_can_leave(tmp_path: Path) -> None:
    run = make_lesion_run(tmp_path / "run", "Supervised")
    (run / "train.csv").unlink()
    text = text_of(page_of(run))
    assert "There is no training log" in text
    assert "Supervised learns from the labelled images alone" in text
    (run / "run.json").write_text((run / "run.json").read_text().replace('"Supervised"', '"Popcorn"'))
    assert "No image has joined the training set of this run" in text_of(page_of(run))


def test_files_that_have_gone_are_said_to_be_missing(one_run: Path) -> None:
    shutil.rmtree(one_run / "predictions")
    for path in (one_run / "pseudo_labels").glob("*.nii.gz"):
        path.unlink()
    (one_run / "pseudo_labels" / "latents.npz").unlink()
    text = text_of(page_of(one_run))
    assert text.count("No pictures: ") == 2
    assert text.count("its files are not there") == 4
    assert "There is no map of the latent space" in text


def test_scores_that_are_not_defined(one_run: Path) -> None:
    table = pd.read_csv(one_run / "volumes.csv")
    table.loc[0, ["dice", "precision", "lesion_f1", "truth_ml"]] = np.nan
    table.to_csv(one_run / "volumes.csv", index=False)
    text = text_of(page_of(one_run))
    assert f"Dice {table.loc[1, 'dice']:.3f} {table.loc[1, 'dice']:.3f} 1" in text
    assert "Dice not defined" in text
    assert "nan" not in text.lower()


def test_an_empty_manifest(one_run: Path) -> None:
    (one_run / "pseudo_labels" / "manifest.json").write_text('{"images": []}')
    text = text_of(page_of(one_run))
    assert "No image has joined the training set yet." in text
    assert "No image was set aside." in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("volumes.csv", "case,image\n1,2\n", "must have the columns case, image, label"),
        ("volumes.csv", "case,image,label,prediction,dice,precision,sensitivity,lesion_f1,load_error_ml\n"
         "a,i,l,p,1,1,1,1,0\na,i,l,p,1,1,1,1,0\n", "each volume once"),
        ("pseudo_labels/manifest.json", "{", "must be valid JSON"),
        ("pseudo_labels/manifest.json", '{"images": [{"image": "a"}]}', "must hold images"),
        ("pseudo_labels/manifest.json", '{"images": [{"image": "a", "step": 1, "dice": "x"}]}', "dice of a must be"),
        ("pseudo_labels/manifest.json", '{"images": [{"image": "a", "step": 1, "neighbors": 3}]}', "neighbors of a"),
        ("pseudo_labels/latents.npz", "no archive", "readable"),
        ("run.json", '{"method": "a", "classes": ["b"], "settings": {"seed": "x"}}', "seed must be an integer"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(one_run: Path, name: str, content: str, message: str) -> None:
    (one_run / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        render(one_run)
    assert str(one_run / name) in str(caught.value)
    assert not (one_run / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "must hold latents, images and steps"),
        ({"steps": np.zeros(4, int)}, r"got the shapes \(9, 16\), \(9,\) and \(4,\)"),
        ({"latents": np.full((9, 16), np.nan)}, "finite"),
    ],
)
def test_malformed_latents_are_named(one_run: Path, change: dict, message: str) -> None:
    path = one_run / "pseudo_labels" / "latents.npz"
    arrays = {key: value for key, value in (dict(np.load(path)) | change).items() if value is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        render(one_run)


def make_comparison(folder: Path, images: Path) -> Path:
    test, unlabeled = pairs(images / "test"), pairs(images / "unlabeled")
    for seed in range(2):
        make_lesion_run(folder / f"sup{seed}", "Supervised", seed, test, error=0.6)
        make_lesion_run(folder / f"pop{seed}", "Popcorn", seed, test, unlabeled if seed else [], 0.3, "POPCORN")
    return folder


def test_a_comparison(tmp_path: Path, images: Path) -> None:
    source = page_of(make_comparison(tmp_path, images))
    text = text_of(source)
    assert "POPCORN against Supervised" in text
    assert "Comparison of 4 runs, 2 test volumes" in text
    assert "2 volumes are too few for p < 0.05 whatever the scores" in text
    frames = {
        name: pd.concat(pd.read_csv(tmp_path / f"{name}{s}" / "volumes.csv") for s in range(2))
        for name in ("sup", "pop")
    }
    means = {name: frame.groupby("case")["dice"].mean() for name, frame in frames.items()}
    for method, name in (("Supervised", "sup"), ("POPCORN", "pop")):
        assert f"{method} {means[name].mean():.3f} ± {means[name].std():.3f} " in text
    difference = means["pop"] - means["sup"]
    assert f"POPCORN − Supervised +{difference.mean():.3f} ± {difference.std():.3f} p = 0.500" in text
    load = frames["pop"]["load_error_ml"].abs().groupby(frames["pop"]["case"]).mean()
    assert f"{load.mean():.2f} ± {load.std():.2f} 2 2 " in text
    assert "Order of joining: POPCORN, seed 1" in text
    # Dots and losses, two volumes with FLAIR and two methods, and the map, Dice and pictures of the pseudo-labels.
    assert source.count("<img") == 2 * 2 + 2 * 3 + 2 * 2 + 4


def test_a_comparison_with_gaps(tmp_path: Path, images: Path) -> None:
    make_comparison(tmp_path, images)
    (tmp_path / "pop1" / "volumes.csv").unlink()
    table = pd.read_csv(tmp_path / "pop0" / "volumes.csv")
    table.iloc[1:].to_csv(tmp_path / "pop0" / "volumes.csv", index=False)
    text = text_of(page_of(tmp_path))
    assert "Left out of tables, with no test scores yet: POPCORN seed 1." in text
    assert "not run with the same seeds" in text
    assert "not tested on the same volumes" in text
    assert "in a single volume: better by" in text


def test_comparisons_without_a_baseline_or_scores(tmp_path: Path, images: Path) -> None:
    make_lesion_run(tmp_path / "a", "Popcorn", 0, pairs(images / "test"))
    assert "there is no Supervised to compare it with yet" in text_of(page_of(tmp_path))
    (tmp_path / "a" / "volumes.csv").unlink()
    assert "No run has been evaluated on test volumes yet." in text_of(page_of(tmp_path))


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    make_lesion_run(tmp_path / "a", "Popcorn", 0)
    make_lesion_run(tmp_path / "b", "Popcorn", 0)
    with pytest.raises(ValueError, match="each method must have each seed once"):
        render(tmp_path)
    (tmp_path / "b" / "run.json").write_text(json.dumps({"method": "RPG", "classes": ["lung"]}))
    with pytest.raises(ValueError, match="lesion segmentation alone, got b of another kind"):
        render(tmp_path)


def test_lesion_runs_are_told_by_their_files_and_settings(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "run.json").write_text(json.dumps({"method": "RPG", "classes": ["lung"], "settings": {}}))
    assert not holds_lesions(tmp_path)
    assert not holds_lesions(tmp_path / "none")
    make_lesion_run(tmp_path / "deep")
    assert holds_lesions(tmp_path / "deep")
    assert holds_lesions(tmp_path)
    (tmp_path / "flat" / "volumes.csv").touch()
    assert holds_lesions(tmp_path / "flat")
    assert not holds_lesions(tmp_path / "deep" / "none")
    (tmp_path / "flat" / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold run\.json"):
        find_lesion_runs(tmp_path / "flat")


def test_names_of_images_are_short_but_tell_them_apart() -> None:
    assert image_names(["/a/x.nii.gz", "/b/y.nii"]) == ["x", "y"]
    assert image_names(["/d/p1/flair.nii.gz", "/d/p2/flair.nii.gz"]) == ["p1/flair", "p2/flair"]
