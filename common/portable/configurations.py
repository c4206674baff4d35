"""What of a bundle's configurations would run, or name, what no bundle of this installation does at that place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from common.bundle_run import BUNDLES
from common.files import read_json
from common.grid.trust import PARTS, code
from common.portable.package import texts

NULL = "$None"  # how nothing is spelled on a command line
# texts that a run may set: nothing of a bundle looks up a class or a function by them
FREE = {"name", "device", "mode", "dataset_dir", "output_ext", "classes#*", "channel"}
FREE_IN = ("network_def#",)  # names of norms and activations, from MONAI's own list


def strange_settings(contents: dict[str, bytes]) -> list[str]:
    """What no bundle of this installation would run, by the one that it is most like; prints all that would be run."""
    configs, problems = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            if name.startswith("configs/") and name.endswith(".json"):
                path = Path(folder) / "config.json"
                path.write_bytes(content)
                try:
                    configs[name] = read_json(path, "pack it again")
                except ValueError as error:
                    problems.append(str(error).replace(str(path), name))
    strange = min(([*others(configs, known)] for known in own_texts()), key=len)
    for name, config in configs.items():
        for place, text in texts(config):
            if is_code(place, text):
                print(f"{'other' if (name, place, text) in strange else 'known'}: {name}: {place}: {text}")
    told = "would run or name what no bundle of this installation does there"
    return problems + [f"{name}: {place} {told}: {text}" for name, place, text in strange]


def others(configs: dict[str, Any], known: frozenset[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """File, place and text of what is not known."""
    for name, config in configs.items():
        free = list(parts_of(config))
        for place, text in texts(config):
            # says what the bundle is, and runs nothing
            if (name == "configs/metadata.json" or place.startswith("_meta_#")) and not is_code(place, text):
                continue
            inside = any(place.startswith(f"{one}#") for one in free)
            if (place, text) in known or text == NULL:
                continue
            leads_out = place != "dataset_dir" and {"/", "\\"} & set(text)  # of masks, whose names these are parts of
            if not is_code(place, text) and ((place in FREE and not leads_out) or place.startswith(FREE_IN) or inside):
                continue
            if inside and place.endswith("_target_") and PARTS.fullmatch(text):
                continue
            yield name, place, text


def is_code(place: str, text: str) -> bool:
    """Whether MONAI would call it, or evaluate it."""
    return place.endswith(("_target_", "imports#*")) or next(code(text, place), None) is not None


def parts_of(value: Any, place: str = "") -> Iterator[str]:
    """Places of what is made of parts of a method, a network or an optimizer, in which names are theirs."""
    if isinstance(value, dict):
        if PARTS.fullmatch(str(value.get("_target_"))):
            yield place
        for key, inner in value.items():
            yield from parts_of(inner, f"{place}#{key.removeprefix('+')}".lstrip("#"))
    elif isinstance(value, list):
        for inner in value:
            yield from parts_of(inner, f"{place}#*")


@cache
def own_texts() -> list[frozenset[tuple[str, str]]]:
    """Place and text of all configurations of each bundle of this installation."""
    folders = sorted(path.parent for path in BUNDLES.glob("*/configs/train.json"))
    return [
        frozenset(
            found
            for path in folder.glob("*.json")
            if path.name != "metadata.json"
            for found in texts(read_json(path, "get the repository again"))
        )
        for folder in folders
    ]
