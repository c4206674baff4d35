"""Images of one part of a datalist that are hidden in another, and masks that are none."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tried import ACCEPTED, REFUSED, Setting, Tried

from common.data import find_datalist
from common.data.check import check
from common.data.readers import read_image
from common.phantoms.jsrt import make_jsrt_phantom


def byte_by_byte(source: Path, target: Path, rng: np.random.Generator) -> Path:
    return Path(shutil.copy(source, target.with_suffix(source.suffix)))


def written(change: Callable) -> Callable[[Path, Path, np.random.Generator], Path]:
    """A copy that ``change`` makes of the picture's grey values in [0, 1], as PNG."""

    def write(source: Path, target: Path, rng: np.random.Generator) -> Path:
        grey = read_image(source).T
        grey = change((grey - grey.min()) / np.ptp(grey), rng)
        path = target.with_suffix(".png")
        picture = grey if isinstance(grey, Image.Image) else Image.fromarray(np.uint8(grey * 255))
        picture.save(path)
        return path

    return write


def compressed(grey: np.ndarray, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(np.uint8(grey * 255)).save(file, "JPEG", quality=int(rng.integers(50, 90)))
    return Image.open(file)


def resized(grey: np.ndarray, rng: np.random.Generator) -> Image.Image:
    side = int(rng.integers(64, 300))
    return Image.fromarray(np.uint8(grey * 255)).resize((side, side))


def cropped(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = rng.integers(0, max(2, len(grey) // 32), 2)
    return grey[low : len(grey) - high, low : len(grey) - high]


COPIES: dict[str, Callable] = {
    "the same file": byte_by_byte,
    "saved as JPEG": written(compressed),
    "resized": written(resized),
    "cropped": written(cropped),
    "flipped": written(lambda grey, rng: grey[:, ::-1]),
    "16 bits": written(lambda grey, rng: Image.fromarray(np.uint16(grey * 65535))),
}


def leaks(setting: Setting) -> Iterator[Tried]:
    """``check`` must end with an error that names both files."""
    phantom = make_jsrt_phantom(setting.folder / "phantom", patients=24, size=128, seed=0)
    datalist = find_datalist(phantom)
    for number in range(setting.times):
        for kind, change in COPIES.items():
            for part in ("labeled", "unlabeled"):
                changed = copy.deepcopy(datalist)
                taken = changed["test"][int(setting.rng.integers(len(changed["test"])))]
                own = change(Path(taken["image"]), phantom / f"copy{number}", setting.rng)
                item = {**changed["labeled"][0], "image": str(own), "patient": "somebody else"}
                item = item if part == "labeled" else {"image": item["image"], "patient": item["patient"]}
                changed[part] = [*changed[part], item]
                found = checked(changed, phantom / "leak.json", own.name, Path(taken["image"]).name)
                yield Tried(f"a test image among the others: {kind}", found, f"{taken['image']} in {part}")
                own.unlink()


def patients(setting: Setting) -> Iterator[Tried]:
    """A patient in two parts, spelled otherwise, must be told of."""
    phantom = make_jsrt_phantom(setting.folder / "phantom", patients=24, size=64, seed=0)
    datalist = find_datalist(phantom)
    spelled: dict[str, Callable[[str], str]] = {
        "equal": lambda name: name,
        "with spaces": lambda name: f" {name} ",
        "in another case": str.swapcase,
        "with zeros": lambda name: name.replace("0", "000", 1) if "0" in name else f"{name}0",
    }
    for _ in range(setting.times):
        for kind, other in spelled.items():
            changed = copy.deepcopy(datalist)
            mine = changed["labeled"][0]["patient"] = "Pat-007a"
            changed["test"][0]["patient"] = other(mine)
            said = mine if other(mine).strip() == mine else "nearly the same"
            found = checked(changed, phantom / "patients.json", said)
            yield Tried(f"a patient in two parts: {kind}", found, f"{mine!r} and {other(mine)!r}")


def masks(setting: Setting) -> Iterator[Tried]:
    """What stands for a mask and is none."""
    phantom = make_jsrt_phantom(setting.folder / "phantom", patients=24, size=64, seed=0)
    datalist = find_datalist(phantom)
    full, noisy = phantom / "full.png", phantom / "noisy.jpg"
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(full)
    for _ in range(setting.times):
        noise = setting.rng.integers(0, 255, (64, 64)).astype(np.uint8)
        Image.fromarray(noise).save(noisy)
        place = int(setting.rng.integers(len(datalist["classes"])))
        for kind in ("the image", "another class's", "full everywhere", "noise of a JPEG"):
            changed = copy.deepcopy(datalist)
            items = changed["labeled"] if kind == "full everywhere" else changed["labeled"][:1]
            for item in items:
                other = item["label"][place - 1]
                wrong = {"the image": item["image"], "another class's": other, "full everywhere": str(full)}
                item["label"][place] = wrong.get(kind, str(noisy))
            named = Path(items[0]["label"][place])
            said = (datalist["classes"][place], "everywhere") if kind == "full everywhere" else (named.name,)
            found = checked(changed, phantom / "masks.json", *said)
            yield Tried(f"a mask that is none: {kind}", found, f"class {place}")


def checked(datalist: dict, path: Path, *said: str) -> str:
    """Refused where ``check`` ends with an error, or warns, and says what it must."""
    path.write_text(json.dumps(datalist))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            check(path)
        except SystemExit as error:
            print(error.code)
    lines = [line for line in out.getvalue().splitlines() if line.startswith(("error", "warning"))]
    lines += [str(warning.message) for warning in told]
    return REFUSED if any(all(part in line for part in said) for line in lines) else ACCEPTED
