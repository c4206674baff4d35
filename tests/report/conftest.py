"""Synthetic runs as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs_on_disk import CLASSES, make_images, make_run, make_volume_run


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """The function that writes a synthetic run."""
    return make_run


@pytest.fixture
def classes() -> tuple[str, ...]:
    """The classes of the synthetic runs."""
    return CLASSES


@pytest.fixture
def one_run(tmp_path: Path) -> Path:
    """A complete run of RPG."""
    return make_run(tmp_path / "RPG_split0")


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """RPG better than Supervised in every one of three splits."""
    for split in range(3):
        make_run(tmp_path / f"RPG_split{split}", "RPG", split, 0.71 + 0.01 * split)
        make_run(tmp_path / f"Supervised_split{split}", "Supervised", split, 0.63 + 0.02 * split)
    return tmp_path


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Path, Path]]]:
    """Volumes with their truths to test on, and others that are not labelled."""
    folder = tmp_path_factory.mktemp("images")
    return {"test": make_images(folder / "test", 2), "unlabeled": make_images(folder / "unlabeled", 6, seed=1)}


@pytest.fixture
def volume_run(tmp_path: Path, volumes: dict) -> Path:
    """A complete run on volumes, in which images joined."""
    return make_volume_run(tmp_path / "pop", "Popcorn", 3, volumes["test"], volumes["unlabeled"], name="POPCORN")


@pytest.fixture
def volume_comparison(tmp_path: Path, volumes: dict) -> Path:
    """POPCORN and Supervised with two seeds each."""
    for seed in range(2):
        unlabeled = volumes["unlabeled"] if seed else []
        make_volume_run(tmp_path / f"sup{seed}", "Supervised", seed, volumes["test"], error=0.6)
        make_volume_run(tmp_path / f"pop{seed}", "Popcorn", seed, volumes["test"], unlabeled, name="POPCORN")
    return tmp_path
