"""Where datalists come from, and what is refused of each source."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data import jsrt_datalist, load_datalist, save_datalist
from common.data.datalist import fingerprint
from common.grid.data import data_source
from common.phantoms.jsrt import make_jsrt_phantom

FILE = Path("grid.yaml")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_jsrt_phantom(tmp_path_factory.mktemp("data") / "phantom", patients=20, size=64, seed=0)


@pytest.mark.parametrize("spec", [{"phantom": "jsrt", "patients": 20, "size": 64}, {"phantom": "ms", "size": 48}])
def test_a_phantom_is_made_once_and_split(tmp_path, spec):
    if spec["phantom"] == "ms":
        spec = {**spec, "labeled": 4, "unlabeled": 1, "test": 1}
    source = data_source(FILE, spec)
    names, mode = source.space()
    source.prepare(tmp_path)
    source.prepare(tmp_path)
    file = source.write(tmp_path, 3, 1)
    assert file == source.write(tmp_path, 3, 1)
    datalist = load_datalist(file)
    assert len(datalist["labeled"]) == 3 and datalist["split"] == 1
    assert (datalist["classes"], datalist["mode"]) == (names, mode)
    with pytest.raises(ValueError, match=r"grid\.yaml: data, labeled 30, split 0: labeled must be"):
        source.datalist(30, 0)


def test_datalists_of_two_phantoms_are_two_files(tmp_path):
    files = set()
    for seed in (0, 1):
        source = data_source(FILE, {"phantom": "jsrt", "patients": 20, "size": 64, "seed": seed})
        source.prepare(tmp_path)
        files.add(source.write(tmp_path, 3, 0))
    assert len(files) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"phantom": "jsrt", "patient": 20}, "data must be of the keys .*, got 'patient': write patients"),
        ({"phantom": "jsrt", "size": "large"}, r"data\.size must be a whole number, got 'large'"),
        ({"phantom": "jsrt", "size": 64.5}, r"data\.size must be a whole number, got 64\.5"),
        ({"phantom": "jsr"}, r"data\.phantom must be one of acdc, jsrt, lgg, ms, retouch, got 'jsr': write jsrt"),
        ({"layout": "jsr", "dir": "x"}, r"data\.layout must be one of .*, got 'jsr': write jsrt"),
        ({"layout": "jsrt"}, "data must be given with dir, the folder, got layout: add dir"),
        ({"layout": "jsrt", "dir": "x", "labeled": 3}, "data must be of the keys .*, got 'labeled'"),
    ],
)
def test_sources_that_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        data_source(FILE, spec)


def test_a_layout(phantom, tmp_path):
    source = data_source(FILE, {"layout": "jsrt", "dir": str(phantom)})
    assert source.identity(3, 0) != source.identity(3, 1)
    assert len(source.space()[0]) == 5
    with pytest.raises(ValueError, match=r"grid\.yaml: data, labeled 9, split 0: labeled must be at most 5"):
        source.datalist(9, 0)
    with pytest.raises(ValueError, match="no such folder"):
        data_source(FILE, {"layout": "jsrt", "dir": str(tmp_path / "none")}).datalist(3, 0)


def test_fingerprints_do_not_change_when_the_data_is_moved(phantom, tmp_path):
    before = fingerprint(jsrt_datalist(phantom))
    moved = tmp_path / "elsewhere"
    phantom.rename(moved)
    try:
        assert fingerprint(jsrt_datalist(moved)) == before
    finally:
        moved.rename(phantom)


def given(files, **others):
    return data_source(FILE, {"datalists": files, **others})


def test_given_datalists(phantom, tmp_path):
    files = {split: tmp_path / f"split{split}.json" for split in (0, 1)}
    for split, file in files.items():
        save_datalist(jsrt_datalist(phantom, labeled=3, split=split), file)
    source = given({3: [str(file) for file in files.values()]})
    assert source.datalist(3, 1)["split"] == 1
    assert source.write(tmp_path / "out", 3, 1) == files[1].resolve()
    assert (len(source.space()[0]), source.space()[1]) == (5, "multilabel")
    with pytest.raises(ValueError, match=r"datalists\.3 must be given for split 2, got the splits \[0, 1\]"):
        source.datalist(3, 2)
    with pytest.raises(ValueError, match=r"datalists\.4 must be datalists of 4 labelled images, got 3"):
        given({4: [str(files[0])]})
    with pytest.raises(ValueError, match="split 0 twice"):
        given({3: [str(files[0]), str(files[0])]})
    with pytest.raises(ValueError, match=r"none\.json"):
        given({3: [str(tmp_path / "none.json")]})
    with pytest.raises(ValueError, match="a mapping of the number"):
        given({3: []})
    with pytest.raises(ValueError, match="data must be given with datalists alone, got datalists, size"):
        given({3: [str(files[0])]}, size=64)


def test_given_datalists_lie_beside_the_grid_file(phantom, tmp_path):
    save_datalist(jsrt_datalist(phantom, labeled=3), tmp_path / "mine.json")
    source = data_source(tmp_path / "grid.yaml", {"datalists": {3: ["mine.json"]}})
    assert source.write(tmp_path, 3, 0) == (tmp_path / "mine.json").resolve()
