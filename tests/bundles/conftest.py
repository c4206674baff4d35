"""A phantom, and a model trained on it, that all tests of bundles share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_runs import configs, options, run_here
from volume_phantom import make_ms_data

from common.phantoms.acdc import make_acdc_phantom, phantom_datalist
from common.phantoms.jsrt import make_jsrt_phantom
from common.phantoms.lgg import make_lgg_phantom
from common.phantoms.lgg import phantom_datalist as lgg_phantom_datalist
from common.phantoms.retouch import make_retouch_phantom
from common.phantoms.retouch import phantom_datalist as retouch_phantom_datalist


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """24 patients of 64 x 64 pixels in JSRT's layout."""
    return make_jsrt_phantom(tmp_path_factory.mktemp("data") / "phantom", patients=24, size=64, seed=0)


@pytest.fixture(scope="session")
def trained(phantom, tmp_path_factory) -> Path:
    """The folder of a finished run of RPG."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_here("run", configs("train"), options(folder, phantom))
    return folder


@pytest.fixture(scope="session")
def acdc_data(tmp_path_factory) -> Path:
    """Eight invented hearts of three slices, with a datalist: 2 labelled patients, 1 for validation, 2 for test."""
    folder = make_acdc_phantom(tmp_path_factory.mktemp("acdc") / "hearts", patients=8, size=48, slices=3)
    phantom_datalist(folder, labeled=2, output=folder / "datalist.json")
    return folder


@pytest.fixture(scope="session")
def retouch_data(tmp_path_factory) -> Path:
    """Eight invented OCT volumes of three B-scans, with a datalist: 3 labelled B-scans, 2 volumes for test."""
    folder = make_retouch_phantom(tmp_path_factory.mktemp("retouch") / "oct", volumes=8, size=48, slices=4)
    retouch_phantom_datalist(folder, labeled=3, output=folder / "datalist.json")
    return folder


@pytest.fixture(scope="session")
def lgg_data(tmp_path_factory) -> Path:
    """Eight invented heads of eight slices, with a datalist: 2 labelled patients, 1 for validation, 2 for test."""
    folder = make_lgg_phantom(tmp_path_factory.mktemp("lgg") / "heads", patients=8, size=48, slices=8)
    lgg_phantom_datalist(folder, labeled=2, output=folder / "datalist.json")
    return folder


@pytest.fixture(scope="session")
def ms_data(tmp_path_factory) -> Path:
    """Tiny volumes with a datalist for the 3D bundle."""
    return make_ms_data(tmp_path_factory.mktemp("ms"))


@pytest.fixture
def data_of(request) -> Callable[[str], Path]:
    """``data_of(bundle)``: a phantom of the bundle's data set."""

    def data(bundle: str) -> Path:
        name = bundle.split("_")[0]
        return request.getfixturevalue("phantom" if name == "jsrt" else f"{name}_data")

    return data
