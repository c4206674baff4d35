"""Where the datalists of a grid come from: a phantom, a layout that is distributed, or files made by hand."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import data as layouts
from common.data import load_datalist, save_datalist
from common.data.datalist import fingerprint
from common.grid.settings import GridError, misfit, suggestion
from common.phantoms import KINDS, find_phantom

# layouts whose datalists are drawn from one folder, with its argument's name
LAYOUTS = {
    "acdc": ("acdc_datalist", "folder"),
    "jsrt": ("jsrt_datalist", "dir"),
    "retouch": ("retouch_datalist", "folder"),
    "lgg": ("lgg_datalist", "folder"),
    "decathlon": ("decathlon_datalist", "folder"),
    "isbi": ("isbi_datalist", "folder"),
    "patients": ("patients_datalist", "folder"),
    "folder": ("folder_datalist", "images"),
}
DRAWN = ("labeled", "share", "split", "output")  # the grid gives these itself


class Layout:
    """Datalists drawn from a folder of images."""

    def __init__(self, file: Path, spec: Mapping[str, Any]) -> None:
        name = spec["layout"]
        if name not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise GridError(file, "data.layout", f"one of {known}", repr(name), suggestion(name, LAYOUTS))
        function, place = LAYOUTS[name]
        self.file, self.draw = file, getattr(layouts, function)
        self.options = {key: value for key, value in spec.items() if key != "layout"}
        check_options(file, "data", self.options, self.draw, DRAWN)
        if place not in self.options:
            raise GridError(file, "data", f"given with {place}, the folder", ", ".join(spec), f"add {place}")
        self.known: dict[tuple[int, int], dict] = {}

    def datalist(self, labeled: int, split: int) -> dict:
        """The datalist of a cell.

        Raises:
            ValueError: when the data does not have so many labelled images or such a split.
        """
        if (labeled, split) not in self.known:
            try:
                self.known[labeled, split] = self.draw(**self.options, labeled=labeled, split=split)
            except (ValueError, OSError) as error:
                raise ValueError(f"{self.file}: data, labeled {labeled}, split {split}: {error}") from error
        return self.known[labeled, split]

    def space(self) -> tuple[list[str], str] | None:
        """The classes and the mode; None before any datalist has been drawn."""
        first = next(iter(self.known.values()), None)
        return first and (first["classes"], first["mode"])

    def identity(self, labeled: int, split: int) -> Any:
        """What a cell's name depends on, so that a grid with other data has other folders."""
        return fingerprint(self.datalist(labeled, split))

    def prepare(self, output: Path) -> None:
        """Nothing is to be made before the datalists."""

    def write(self, output: Path, labeled: int, split: int) -> Path:
        """Writes the datalist of a cell below ``output``; one that is there with this content stays as it is."""
        datalist = self.datalist(labeled, split)
        digest = hashlib.sha256(json.dumps(datalist).encode()).hexdigest()[:8]  # its whole paths too
        file = output / "data" / f"labeled{labeled}_split{split}_{digest}.json"
        return file if file.exists() else save_datalist(datalist, file)


class Invented(Layout):
    """Datalists drawn from a phantom, which is made when the grid first runs."""

    def __init__(self, file: Path, spec: Mapping[str, Any]) -> None:
        self.kind = spec["phantom"]
        if self.kind not in KINDS:
            raise GridError(
                file, "data.phantom", f"one of {', '.join(KINDS)}", repr(self.kind), suggestion(self.kind, KINDS)
            )
        self.file, self.phantom = file, find_phantom(self.kind)
        self.draw, self.known = self.phantom.datalist, {}
        self.spec = {key: value for key, value in spec.items() if key != "phantom"}
        check_options(file, "data", self.spec, self.phantom.make, ("directory",))
        self.folder: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {next(iter(inspect.signature(self.draw).parameters)): self.folder}

    def space(self) -> tuple[list[str], str]:
        return list(self.phantom.classes), self.phantom.mode

    def identity(self, labeled: int, split: int) -> Any:
        defaults = {name: p.default for name, p in inspect.signature(self.phantom.make).parameters.items()}
        spec = {name: value for name, value in (defaults | self.spec).items() if name != "directory"}
        return {"phantom": self.kind, "spec": spec, "labeled": labeled, "split": split}

    def prepare(self, output: Path) -> None:
        parts = [f"{key}{value}" for key, value in self.spec.items()]
        self.folder = output / "data" / "_".join(["phantom", self.kind, *parts])
        if not self.folder.exists():
            self.phantom.make(self.folder, **self.spec)


class Given:
    """Datalists made by hand: files by number of labelled images, one for each split; beside the grid file, or from
    the current folder.
    """

    def __init__(self, file: Path, spec: Mapping[str, Any]) -> None:
        self.file, self.paths, self.known = file, {}, {}
        files = spec["datalists"]
        if not isinstance(files, dict) or not files or not all(isinstance(v, list) and v for v in files.values()):
            expected = "a mapping of the number of labelled images to a list of files"
            raise GridError(file, "data.datalists", expected, repr(files), "write {3: [split0.json, split1.json]}, say")
        if len(spec) > 1:
            raise GridError(file, "data", "given with datalists alone", ", ".join(spec), "take the others out")
        for labeled, paths in files.items():
            for path in paths:
                self._add(labeled, path)

    def _add(self, labeled: Any, path: Any) -> None:
        key = f"data.datalists.{labeled}"
        if not isinstance(path, str):
            raise GridError(self.file, key, "a list of files", repr(path), "write their names")
        beside = self.file.parent / path
        path = beside if beside.is_file() else path
        try:
            datalist = load_datalist(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.file}: {key}: {error}") from error
        if len(datalist["labeled"]) != labeled:
            found = f"{len(datalist['labeled'])} in {path}"
            raise GridError(self.file, key, f"datalists of {labeled} labelled images", found, "move it to its number")
        place = (labeled, datalist.get("split", 0))
        if place in self.known:
            raise GridError(self.file, key, "datalists of different splits", f"split {place[1]} twice", "drop one")
        first = next(iter(self.known.values()), datalist)
        if (datalist["classes"], datalist["mode"]) != (first["classes"], first["mode"]):
            expected = f"datalists of the classes {first['classes']}"
            raise GridError(self.file, key, expected, f"others in {path}", "give one data set")
        self.known[place], self.paths[place] = datalist, Path(path)

    def space(self) -> tuple[list[str], str]:
        first = next(iter(self.known.values()))
        return first["classes"], first["mode"]

    def datalist(self, labeled: int, split: int) -> dict:
        if (labeled, split) not in self.known:
            there = [s for n, s in self.known if n == labeled]
            key = f"data.datalists.{labeled}"
            raise GridError(self.file, key, f"given for split {split}", f"the splits {there}", "add its file")
        return self.known[labeled, split]

    def identity(self, labeled: int, split: int) -> Any:
        return fingerprint(self.datalist(labeled, split))

    def prepare(self, output: Path) -> None:
        """Everything is there."""

    def write(self, output: Path, labeled: int, split: int) -> Path:
        return self.paths[labeled, split].resolve()


Source = Layout | Given
SOURCES = {"phantom": Invented, "layout": Layout, "datalists": Given}


def data_source(file: Path, data: Mapping[str, Any]) -> Source:
    """The source that a grid file's ``data`` names."""
    return next(kind(file, data) for key, kind in SOURCES.items() if key in data)


def check_options(file: Path, key: str, options: Mapping[str, Any], function: Any, own: tuple[str, ...]) -> None:
    """Refuses what is no argument of the function, or of another kind than its default."""
    known = {name: p.default for name, p in inspect.signature(function).parameters.items() if name not in own}
    for name, value in options.items():
        if name not in known:
            raise GridError(file, key, f"of the keys {', '.join(known)}", repr(name), suggestion(name, known))
        default = known[name]
        whole = isinstance(default, int) and not isinstance(default, bool)
        wrong = misfit(name, value, None if default is inspect.Parameter.empty else default)
        if wrong or (whole and (not isinstance(value, int) or isinstance(value, bool))):
            expected = "a whole number" if whole else wrong
            raise GridError(file, f"{key}.{name}", expected, repr(value), "correct it")
