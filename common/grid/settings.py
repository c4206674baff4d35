"""Settings of a grid: which belong to the method and which to the bundle, and what they are called in a table."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common import methods as all_methods
from common.settings import keywords

METHOD = "method#"
# The grid sets these itself, for each cell.
RESERVED = ("bundle_root", "ckpt_dir", "data", "datalist", "dataset_dir", "method", "num_labeled", "output_dir")
RESERVED += ("resume", "split")
# The grid itself counts with these.
COUNTED = ("epochs", "labeled_batch", "val_interval")
# How a paper writes them, in the names of rows, columns and folders.
SYMBOLS = {"labeled_batch": "p", "method#neighbors": "k", "method#threshold": "τ"}


class GridError(ValueError):
    """What is wrong in a grid file: the file, the key, what was expected, what was found and what to do."""

    def __init__(self, file: Any, key: str, expected: str, found: Any, advice: str) -> None:
        super().__init__(f"{file}: {key} must be {expected}, got {found}: {advice}.")


def method_names() -> list[str]:
    """Names of the methods that can be trained."""
    return [name for name in all_methods.__all__ if name not in ("Method", "Step")]


def keywords_of(method: str) -> dict[str, Any]:
    """The keywords of a method with their defaults."""
    parameters = keywords(getattr(all_methods, method))
    return {name: p.default for name, p in parameters.items() if name not in ("labels", "terms", "joining", "seed")}


def given_to(method: str, merged: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that the bundle's configuration gives a method, which come before the method's own defaults."""
    known, given = keywords_of(method), merged.get("method", {})
    return {name: value for name, value in given.items() if name in known}


def own_method(method: str, merged: Mapping[str, Any]) -> dict[str, Any]:
    """The setting that leaves out what the bundle gives its method and this one does not have; empty for nothing."""
    given, known = merged.get("method", {}), {"_target_", *keywords(getattr(all_methods, method))}
    kept = {name: value for name, value in given.items() if name in known}
    return {} if len(kept) == len(given) else {"method": {**kept, "_target_": f"common.methods.{method}"}}


def configuration(bundle: Path, config: str) -> dict[str, Any]:
    """The bundle's configuration files merged as MONAI merges them: later ones replace single values by their id.

    Raises:
        FileNotFoundError: when one of the files is missing.
    """
    merged: dict[str, Any] = {}
    for name in config.split(","):
        for key, value in json.loads((bundle / "configs" / name).read_text()).items():
            merged = with_value(merged, key, value)
    return merged


def named_files(content: Any, bundle: Path) -> dict[str, str]:
    """A hash of the content of each file that a configuration names, by a path or as one of the bundle's own."""
    if isinstance(content, dict | list):
        parts = content.values() if isinstance(content, dict) else content
        return {name: digest for part in parts for name, digest in named_files(part, bundle).items()}
    if not isinstance(content, str):
        return {}
    own = re.fullmatch(r"\$\s*@bundle_root\s*\+\s*(['\"])/(.+)\1\s*", content)
    file = bundle / own[2] if own else Path(content)
    try:
        return {content: hashlib.sha256(file.read_bytes()).hexdigest()}
    except (OSError, ValueError):  # no file's name
        return {}


def has(content: Any, key: str) -> bool:
    """Whether a configuration has a value under an id like ``optimizer#lr``."""
    for part in key.split("#"):
        if isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        elif isinstance(content, dict) and part in content:
            content = content[part]
        else:
            return False
    return True


def value_of(content: Any, key: str) -> Any:
    """The value under an id that the configuration has."""
    for part in key.split("#"):
        content = content[int(part)] if isinstance(content, list) else content[part]
    return content


def with_value(content: Any, key: str, value: Any) -> Any:
    """A copy of a configuration with another value under an id."""
    part, _, rest = key.partition("#")
    if isinstance(content, list):
        index = int(part)
        return [*content[:index], with_value(content[index], rest, value) if rest else value, *content[index + 1 :]]
    return {**content, part: with_value(content.get(part, {}), rest, value) if rest else value}


def resolve(key: str, methods: Iterable[str], merged: Mapping[str, Any]) -> str | None:
    """The id of a setting that a grid file names: ``method#neighbors`` from ``neighbors``; None where there is none.

    A keyword of one of the methods comes first, then a setting of the bundle.
    """
    key = key.replace("::", "#")
    keyword = key.removeprefix(METHOD)
    if any(keyword in keywords_of(method) for method in methods):
        return METHOD + keyword
    return key if key.split("#")[0] not in RESERVED and has(merged, key) else None


def default_of(key: str, method: str, merged: Mapping[str, Any]) -> Any:
    """The value of a setting where the grid file does not give one, the bundle's before the method's; None for none."""
    if key.startswith(METHOD):
        keyword = key.removeprefix(METHOD)
        return given_to(method, merged).get(keyword, keywords_of(method).get(keyword))
    return value_of(merged, key) if has(merged, key) else None


def misfit(key: str, value: Any, default: Any) -> str | None:
    """What a setting's value must be where it is of another kind than its default; None where it fits.

    MONAI's expressions ($...) and null, which many keywords take, fit everywhere but for the settings that the grid
    counts with: those are whole numbers.
    """
    if key in COUNTED:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return None if whole else "a whole number of at least 1"
    if value is None or default is None or str(value).startswith("$") or str(default).startswith(("$", "@")):
        return None
    if isinstance(default, bool) or isinstance(value, bool):
        return (
            None if isinstance(default, bool) and isinstance(value, bool) else f"of the kind {type(default).__name__}"
        )
    for kind, name in (((int, float), "a number"), (list, "a list"), (dict, "a mapping"), (str, "text")):
        if isinstance(default, kind) and not isinstance(value, kind):
            return name
    return None


def known_settings(methods: Iterable[str], merged: Mapping[str, Any]) -> list[str]:
    """What a grid file may set: keywords of the methods, and the bundle's plain values at the top."""
    own = {keyword for method in methods for keyword in keywords_of(method)}
    plain = {
        key
        for key, value in merged.items()
        if not isinstance(value, dict) and not str(value).startswith("$@") and key not in RESERVED
    }
    return sorted(own | plain - {"imports", "initialize", "run", "training"})


def suggestion(word: Any, known: Iterable[str]) -> str:
    """ "write X" for the known word that is nearest, else all that are known."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, 1)
    return f"write {near[0]}" if near else f"use {', '.join(known)}"


def plain_value(value: Any) -> Any:
    """A number that YAML takes for text (1e-3) as the number it is."""
    text = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if text else value


def label(key: str, value: Any) -> str:
    """A setting as a table shows it: ``k = 50 %``, ``p = 2``, ``τ = 0.8``."""
    return f"{SYMBOLS.get(key, key.removeprefix(METHOD).replace('_', ' '))} = {shown(key, value)}"


def shown(key: str, value: Any) -> str:
    """A setting's value as a table shows it; a share of the references in percent."""
    if key == METHOD + "neighbors" and isinstance(value, float):
        return f"{100 * value:g} %"
    return str(value)
