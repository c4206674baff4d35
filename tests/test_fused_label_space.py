"""Fine classes fused into coarse ones, by hand; and maps that cannot be used."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor

from common.fused_label_space import FusedLabelSpace, load_fusion
from common.label_space import LabelSpace
from common.transforms import LoadLabeld, ToMasksd

FINE = ["upper", "lower", "rib", "heart"]
MAP = {"classes": {"lung": ["upper", "lower"], "heart": ["heart"]}, "unused": ["rib"]}


@pytest.fixture(params=["multilabel", "multiclass"])
def fused(request):
    return FusedLabelSpace(LabelSpace(FINE, request.param), MAP["classes"], MAP["unused"])


@pytest.fixture
def load(tmp_path):
    """``load(content, classes)``: the label space of a map with that content, or that text."""

    def call(content, classes=FINE):
        file = tmp_path / "map.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_fusion(file, LabelSpace(classes))

    return call


def pixels(*rows):
    """Four pixels in a row of an image: 1 C 1 4."""
    return torch.tensor(rows, dtype=torch.float32).reshape(1, len(rows), 1, 4)


def test_multilabel_by_hand(load):
    fused = load(MAP)
    assert (fused.classes, fused.mode) == (("lung", "heart"), "multilabel")
    assert (fused.num_classes, fused.num_outputs) == (2, 4)
    label = pixels([1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1])
    torch.testing.assert_close(fused.masks(label), pixels([1, 1, 0, 1], [0, 0, 0, 1]))
    logits = 10 * label - 5
    torch.testing.assert_close(fused.predict(logits), label)
    torch.testing.assert_close(fused.masks(fused.predict(logits)), pixels([1, 1, 0, 1], [0, 0, 0, 1]))


def test_multiclass_by_hand():
    fused = FusedLabelSpace(LabelSpace(FINE, "multiclass"), MAP["classes"], MAP["unused"])
    assert (fused.num_classes, fused.num_outputs) == (2, 5)
    # background, rib, heart, and pixels of the upper and the lower lobe
    torch.testing.assert_close(fused.masks(pixels([0, 3, 4, 1])), pixels([0, 0, 0, 1], [0, 0, 1, 0]))
    torch.testing.assert_close(fused.masks(pixels([2, 2, 1, 0])), pixels([1, 1, 1, 0], [0, 0, 0, 0]))
    logits = torch.zeros(1, 5, 1, 4)
    logits[:, [0, 3, 4, 1], 0, range(4)] = 1
    torch.testing.assert_close(fused.predict(logits), pixels([0, 3, 4, 1]).long())


def test_coarse_classes_may_share_fine_ones(load):
    fused = load({"classes": {"lung": ["upper", "lower"], "top": ["upper"]}, "unused": ["rib", "heart"]})
    label = pixels([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1])
    torch.testing.assert_close(fused.masks(label), pixels([1, 1, 0, 0], [1, 0, 0, 0]))


def test_volumes(fused):
    label = torch.randint(0, 2, (2, 4, 3, 5, 6)).float() if fused.multilabel else torch.randint(0, 5, (2, 1, 3, 5, 6))
    masks = fused.masks(label)
    assert masks.shape == (2, 2, 3, 5, 6)
    fine = fused.fine.masks(label)
    assert torch.equal(masks[:, 0], torch.maximum(fine[:, 0], fine[:, 1]))


def test_losses_are_those_of_the_fine_classes(fused):
    logits = torch.randn(2, fused.num_outputs, 3, 3)
    label = torch.randint(0, 2, (2, 4, 3, 3)).float() if fused.multilabel else torch.randint(0, 5, (2, 1, 3, 3))
    assert torch.equal(fused.cross_entropy(logits, label), fused.fine.cross_entropy(logits, label))
    assert torch.equal(fused.probabilities(logits), fused.fine.probabilities(logits))


@pytest.mark.parametrize("truth", ["fine", "coarse"])
def test_after_an_evaluator(load, truth):
    fused = load(MAP)
    fine = pixels([1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1])[0]
    coarse = pixels([1, 1, 0, 1], [0, 0, 0, 1])[0]
    data = {"pred": MetaTensor(2 * fine - 1), "label": MetaTensor(fine if truth == "fine" else coarse)}
    found = ToMasksd(fused)(data)
    assert isinstance(found["pred"], MetaTensor)
    torch.testing.assert_close(found["pred"].as_tensor(), coarse)
    torch.testing.assert_close(found["label"].as_tensor(), coarse)


def test_masks_of_either_form_are_loaded(load, tmp_path):
    import numpy as np
    from PIL import Image

    files = []
    for index in range(4):
        files.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(np.full((2, 3), 255 * (index % 2), np.uint8)).save(files[-1])
    transform = LoadLabeld("label", load(MAP))
    assert transform({"label": files})["label"].shape == (4, 3, 2)
    assert transform({"label": files[:2]})["label"].shape == (2, 3, 2)
    with pytest.raises(
        ValueError, match=r"4 masks, one for each of upper, .* or 2 masks, one for each of lung, heart, got 3"
    ):
        transform({"label": files[:3]})


def test_label_maps_are_of_the_fine_classes(fused, tmp_path):
    import numpy as np
    from PIL import Image

    Image.fromarray(np.array([[0, 1, 2], [3, 4, 0]], np.uint8)).save(tmp_path / "map.png")
    label = LoadLabeld("label", fused)({"label": str(tmp_path / "map.png")})["label"]
    lung, heart = fused.masks(label[None])[0].as_tensor().transpose(1, 2).tolist()
    assert (lung, heart) == ([[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a map of classes must be JSON, got: "),
        ([], r'a map of classes must have the form \{"classes": .* got \[\]'),
        ({"classes": MAP["classes"]}, "must have the form"),
        ({**MAP, "unsued": []}, "must have the form"),
        ({"classes": [], "unused": FINE}, "must have the form"),
        ({"classes": {"lung": "upper"}, "unused": []}, "must have the form"),
        ({"classes": {"lung": []}, "unused": FINE}, "must have the form"),
        ({"classes": {"lung": [1]}, "unused": FINE}, "must have the form"),
        ({"classes": {}, "unused": FINE}, "classes must be a list with at least one name"),
        ({**MAP, "unused": ["rib", "spleen"]}, r"must name classes of the data \(upper, .*\), got spleen"),
        ({**MAP, "unused": []}, "every class must be in the map, got none of rib. Add"),
        (
            {**MAP, "classes": {"lung": ["upper", "upper", "lower", "heart"]}},
            "'lung' must name each class once, got upper",
        ),
        ({**MAP, "unused": ["rib", "rib"]}, "'unused' must name each class once, got rib"),
        ({**MAP, "unused": ["rib", "upper"]}, "'unused' must name classes of no coarse class, got upper"),
        ('{"classes": {"lung": ["upper"], "lung": ["lower"]}, "unused": []}', "each key must occur once, got lung"),
        ({"classes": {name: [name] for name in FINE}, "unused": []}, "more fine than coarse classes, got 4 and 4"),
    ],
)
def test_bad_maps_are_refused(load, content, message):
    with pytest.raises(ValueError, match=message) as error:
        load(content)
    assert "map.json: " in str(error.value)


def test_no_map(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"map\.json: there is no such file\. A map of classes is needed"):
        load_fusion(tmp_path / "map.json", LabelSpace(FINE))
