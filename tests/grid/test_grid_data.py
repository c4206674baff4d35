"""Where datalists come from, and what is refused of each source."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data import jsrt_datalist, load_datalist, save_datalist
from common.grid.data import Given, Jsrt, Phantom, data_source, fingerprint
from common.phantoms.jsrt import make_jsrt_phantom

FILE = Path("grid.yaml")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_jsrt_phantom(tmp_path_factory.mktemp("data") / "phantom", patients=20, size=64, seed=0)


def test_a_phantom_is_made_once_and_split(tmp_path):
    source = data_source(FILE, {"phantom": {"patients": 20, "size": 64}})
    source.check(3, 0)
    source.prepare(tmp_path)
    source.prepare(tmp_path)
    file = source.write(tmp_path, 3, 1)
    assert file == source.write(tmp_path, 3, 1)
    assert len(load_datalist(file)["labeled"]) == 3
    assert load_datalist(file)["split"] == 1


def test_datalists_of_two_phantoms_are_two_files(tmp_path):
    files = set()
    for seed in (0, 1):
        source = Phantom(FILE, {"patients": 20, "size": 64, "seed": seed})
        source.prepare(tmp_path)
        files.add(source.write(tmp_path, 3, 0))
    assert len(files) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"patient": 20}, "'patient': write patients"),
        ({"size": 8}, r"data\.phantom\.size must be a whole number of 64"),
        (40, r"data\.phantom must be a mapping"),
    ],
)
def test_phantoms_that_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        Phantom(FILE, spec)


def test_too_few_patients():
    for patients, labeled in ((17, 3), (24, 6)):
        Phantom(FILE, {"patients": patients}).check(labeled, 0)
        with pytest.raises(
            ValueError, match=rf"at least {2 * labeled + 13} for {labeled + 1} labelled.*, got {patients}"
        ):
            Phantom(FILE, {"patients": patients}).check(labeled + 1, 0)


def test_jsrt(phantom, tmp_path):
    source = Jsrt(FILE, str(phantom))
    assert source.identity(3, 0) != source.identity(3, 1)
    with pytest.raises(ValueError, match=r"grid\.yaml: data\.jsrt, labeled 9, split 0: labeled must be at most 5"):
        source.check(9, 0)
    with pytest.raises(ValueError, match="no such folder"):
        Jsrt(FILE, str(tmp_path / "none")).check(3, 0)


def test_fingerprints_do_not_change_when_the_data_is_moved(phantom, tmp_path):
    before = fingerprint(jsrt_datalist(phantom))
    moved = tmp_path / "elsewhere"
    phantom.rename(moved)
    try:
        assert fingerprint(jsrt_datalist(moved)) == before
    finally:
        moved.rename(phantom)


def test_given_datalists(phantom, tmp_path):
    files = {split: tmp_path / f"split{split}.json" for split in (0, 1)}
    for split, file in files.items():
        save_datalist(jsrt_datalist(phantom, labeled=3, split=split), file)
    source = Given(FILE, {3: [str(file) for file in files.values()]})
    source.check(3, 1)
    assert source.write(tmp_path / "out", 3, 1) == files[1].resolve()
    assert (len(source.classes), source.mode) == (5, "multilabel")
    with pytest.raises(ValueError, match=r"datalists\.3 must be given for split 2, got the splits \[0, 1\]"):
        source.check(3, 2)
    with pytest.raises(ValueError, match=r"datalists\.4 must be datalists of 4 labelled images, got 3"):
        Given(FILE, {4: [str(files[0])]})
    with pytest.raises(ValueError, match="split 0 twice"):
        Given(FILE, {3: [str(files[0]), str(files[0])]})
    with pytest.raises(ValueError, match=r"none\.json"):
        Given(FILE, {3: [str(tmp_path / "none.json")]})
    with pytest.raises(ValueError, match="a mapping of the number"):
        Given(FILE, {3: []})
