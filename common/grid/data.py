"""Where the datalists of a grid come from: a phantom, JSRT's folder, or files made by hand."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from common.data import jsrt_datalist, load_datalist, save_datalist
from common.data.datalist import item_files
from common.data.datalist_rules import PARTS
from common.data.jsrt import CLASSES
from common.grid.settings import GridError, suggestion
from common.phantoms.jsrt import LARGEST, SMALLEST, make_jsrt_phantom

VALIDATION = 5  # images, as in the paper


class Jsrt:
    """Datalists drawn from JSRT's own layout."""

    mode = "multilabel"
    classes = list(CLASSES)

    def __init__(self, file: Path, directory: Any, key: str = "data.jsrt") -> None:
        if not isinstance(directory, str):
            raise GridError(file, key, "the folder that holds JSRT", repr(directory), "write jsrt: data/jsrt, say")
        self.file, self.directory, self.key = file, Path(directory), key
        self.known: dict[tuple[int, int], dict] = {}

    def check(self, labeled: int, split: int) -> None:
        """Refuses what no datalist can be made of."""
        self.datalist(labeled, split)

    def datalist(self, labeled: int, split: int) -> dict:
        if (labeled, split) not in self.known:
            try:
                self.known[labeled, split] = jsrt_datalist(
                    self.directory, labeled=labeled, split=split, validation=VALIDATION
                )
            except (ValueError, OSError) as error:
                raise ValueError(f"{self.file}: {self.key}, labeled {labeled}, split {split}: {error}") from error
        return self.known[labeled, split]

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


class Phantom(Jsrt):
    """Datalists drawn from invented radiographs, which are made when the grid first runs."""

    def __init__(self, file: Path, spec: Any) -> None:
        known = {"patients": (140, 2, 1000), "size": (96, SMALLEST, LARGEST), "seed": (0, 0, 2**31)}
        if not isinstance(spec, dict):
            raise GridError(file, "data.phantom", f"a mapping with {', '.join(known)}", repr(spec), "see grids/")
        for name in spec:
            if name not in known:
                raise GridError(
                    file, "data.phantom", f"of the keys {', '.join(known)}", repr(name), suggestion(name, known)
                )
        self.spec = {name: spec.get(name, default) for name, (default, _, _) in known.items()}
        for name, (_, least, most) in known.items():
            value = self.spec[name]
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise GridError(
                    file, f"data.phantom.{name}", f"a whole number of {least} to {most}", repr(value), "correct it"
                )
        super().__init__(file, "", "data.phantom")

    def check(self, labeled: int, split: int) -> None:
        least = 2 * (labeled + VALIDATION + 1) - 1  # patients come in turns of training half and test half
        if self.spec["patients"] < least:
            raise GridError(
                self.file,
                "data.phantom.patients",
                f"at least {least} for {labeled} labelled, {VALIDATION} validation and 1 unlabelled image in one half",
                self.spec["patients"],
                "ask for more patients or fewer labelled images",
            )

    def identity(self, labeled: int, split: int) -> Any:
        return {"phantom": self.spec, "labeled": labeled, "split": split}

    def prepare(self, output: Path) -> None:
        name = "phantom_{patients}_patients_{size}_pixels_seed{seed}".format(**self.spec)
        self.directory = output / "data" / name
        if not self.directory.exists():
            make_jsrt_phantom(self.directory, **self.spec)


class Given:
    """Datalists made by hand, for other data: files by number of labelled images, one for each split."""

    def __init__(self, file: Path, spec: Any) -> None:
        self.file, self.paths, self.known = file, {}, {}
        if not isinstance(spec, dict) or not spec or not all(isinstance(v, list) and v for v in spec.values()):
            raise GridError(
                file,
                "data.datalists",
                "a mapping of the number of labelled images to a list of files",
                repr(spec),
                "write {3: [split0.json, split1.json]}, say",
            )
        for labeled, paths in spec.items():
            for path in paths:
                self._add(labeled, path)

    def _add(self, labeled: Any, path: Any) -> None:
        key = f"data.datalists.{labeled}"
        try:
            datalist = load_datalist(path)
        except (ValueError, OSError, TypeError) as error:
            raise ValueError(f"{self.file}: {key}: {error}") from error
        if len(datalist["labeled"]) != labeled:
            raise GridError(
                self.file, key, f"datalists of {labeled} labelled images", f"{len(datalist['labeled'])} in {path}",
                "move it to its number",
            )  # fmt: skip
        place = (labeled, datalist.get("split", 0))
        if place in self.known:
            raise GridError(self.file, key, "datalists of different splits", f"split {place[1]} twice", "drop one")
        first = next(iter(self.known.values()), datalist)
        if (datalist["classes"], datalist["mode"]) != (first["classes"], first["mode"]):
            raise GridError(
                self.file, key, f"datalists of the classes {first['classes']}", f"others in {path}", "give one data set"
            )
        self.known[place], self.paths[place] = datalist, Path(path)

    @cached_property
    def classes(self) -> list[str]:
        return next(iter(self.known.values()))["classes"]

    @cached_property
    def mode(self) -> str:
        return next(iter(self.known.values()))["mode"]

    def check(self, labeled: int, split: int) -> None:
        if (labeled, split) not in self.known:
            there = [s for n, s in self.known if n == labeled]
            raise GridError(
                self.file,
                f"data.datalists.{labeled}",
                f"given for split {split}",
                f"the splits {there}",
                "add its file",
            )

    def datalist(self, labeled: int, split: int) -> dict:
        return self.known[labeled, split]

    def identity(self, labeled: int, split: int) -> Any:
        return fingerprint(self.known[labeled, split])

    def prepare(self, output: Path) -> None:
        """Everything is there."""

    def write(self, output: Path, labeled: int, split: int) -> Path:
        return self.paths[labeled, split].resolve()


Source = Jsrt | Given


def data_source(file: Path, data: dict[str, Any]) -> Source:
    """The source that a grid file's ``data`` names."""
    ((kind, spec),) = data.items()
    return {"phantom": Phantom, "jsrt": Jsrt, "datalists": Given}[kind](file, spec)


def fingerprint(datalist: dict) -> str:
    """Eight digits that say which images are in which part; the same after the whole data set has been moved."""
    base = os.path.commonpath([file for part in PARTS for item in datalist[part] for file in item_files(item)])
    parts = {
        part: [{**item, "files": [os.path.relpath(f, base) for f in item_files(item)]} for item in datalist[part]]
        for part in PARTS
    }
    for items in parts.values():
        for item in items:
            for key in ("image", "label", "truth"):
                item.pop(key, None)
    content = {**datalist, **parts}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
