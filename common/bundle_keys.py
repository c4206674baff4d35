"""What is typed behind ``python -m monai.bundle run``, of which MONAI takes any key."""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import monai.bundle
from monai.bundle import ConfigParser

from common import methods

OWN = frozenset(inspect.signature(monai.bundle.run).parameters)  # of the command, not of a configuration
TRACKING = {"output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config"}


def refuse_unknown_keys(arguments: Sequence[str] | None = None) -> None:
    """Refuses keys that no configuration of the bundle has, and methods that there are not, before anything is made.

    MONAI adds a misspelt key to the configuration, where nothing looks at it, and the run goes on with its default.
    What stands below a key is not looked at: a part may be given any of its keywords.

    Args:
        arguments: what was typed; by default that of this process, if it is a bundle's run.

    Raises:
        ValueError: naming the first key or method, and the nearest that there is.
    """
    if arguments is None:
        arguments = sys.argv[1:] if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py") else ()
    given = _typed(arguments)
    if "args_file" in given:
        given = ConfigParser.load_config_file(given["args_file"]) | given
    if "config_file" not in given:
        return
    files = given["config_file"]
    several = isinstance(files, str) and files.startswith(("[", "("))
    names = ast.literal_eval(files) if several else files.split(",") if isinstance(files, str) else files
    # those of the folder, too: one command line may serve training and evaluation
    paths = {*names, *(str(file) for name in names for file in Path(name).parent.glob("*.json"))}
    held = (key for name in paths if Path(name).stem != "metadata" for key in ConfigParser.load_config_file(name))
    known = {key.split("#")[0] for key in held} | OWN
    known |= TRACKING if "tracking" in given else set()
    for key in given:
        top = key.removeprefix("+").replace("::", "#").split("#")[0]
        if top not in known:
            near = difflib.get_close_matches(top, sorted(known), 1)
            raise ValueError(
                f"--{key} must be a key of {files}, got one that is none: "
                f"{f'write --{near[0]}' if near else 'see docs/reference/configuration.md'}."
            )
    method = str(given.get("method#_target_", given.get("method::_target_", "")))
    if method.startswith("common.methods.") and method.rpartition(".")[2] not in methods.__all__:
        there = ", ".join(name for name in methods.__all__ if name not in ("Method", "Step"))
        raise ValueError(f"method#_target_ must be common.methods. and one of {there}, got {method}.")


def _typed(arguments: Sequence[str]) -> dict[str, str]:
    """Keys and values as Fire takes them apart: ``--key value``, ``--key=value`` and ``--key`` alone."""
    words, found = list(takewhile(lambda word: word != "--", arguments)), {}  # behind it are Fire's own
    for word, after in zip(words, [*words[1:], "--"], strict=False):
        if word.startswith("--"):
            key, sign, value = word[2:].partition("=")
            found[key.replace("-", "_")] = value if sign else "True" if after.startswith("--") else after
    return found
