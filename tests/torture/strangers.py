"""Files of strangers: grids and datalists that would run code; weights that are programs, or that were damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import damaged
import torch
import yaml
from bundle_runs import ROOT, configs, options, run_in_fork
from fire.parser import DefaultParseValue
from test_damaged_images import SCRIPTS
from tried import ACCEPTED, REFUSED, SAME, Setting, Tried, verdict

from common.command_words import quoted
from common.data import find_datalist
from common.grid.grid_file import read_grid
from common.handlers.checkpoint import load_checkpoint
from common.phantoms.jsrt import make_jsrt_phantom

# what a row, the settings or the data of a grid may hold that would run `touch`, or a debugger
EXPRESSIONS = ("$open({0!r}, 'w')", "'$open({0!r}, \"w\")'", "\"$open({0!r}, 'w')\"", "%{0}::x")
TARGETS = (
    {"_target_": "os.system", "command": "touch {0}"},
    {"_target_": "common.losses.Dice", "_mode_": "debug"},
    {"_target_": "subprocess.run", "args": ["touch", "{0}"]},
    {"_target_": "common.losses.Sum", "losses": [{"_target_": "builtins.open", "file": "{0}", "mode": "w"}]},
)


DAMAGES = {"cut off": damaged.cut, "a bit flipped": damaged.flipped}


class Program:
    """What a pickle of it does when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


def grids(setting: Setting) -> Iterator[Tried]:
    setting.folder.mkdir(parents=True)
    proof, file = setting.folder / "proof", setting.folder / "grid.yaml"
    plain = yaml.safe_load((ROOT / "grids" / "demo.yaml").read_text())
    values = [text.format(str(proof)) for text in EXPRESSIONS]
    values += [json.loads(json.dumps(target).replace("{0}", str(proof))) for target in TARGETS]
    for value in values:
        for place in ("settings", "row", "data"):
            grid = json.loads(json.dumps(plain))
            row = grid["tables"][next(iter(grid["tables"]))]["rows"][0]
            {"settings": grid.setdefault("settings", {}), "row": row, "data": grid["data"]}[place]["loss"] = value
            file.write_text(yaml.safe_dump(grid))
            found = verdict(lambda: read_grid(file))
            typed = DefaultParseValue(quoted(value)) if isinstance(value, str) else value
            if found == ACCEPTED and isinstance(typed, str) and typed.startswith(("'", '"')):
                found = SAME  # its quotes stay on the command line, so that MONAI evaluates nothing
            yield Tried("grid: an expression or a _target_", ran(found, proof), f"{value} in {place}")


def datalists(setting: Setting) -> Iterator[Tried]:
    """By a training, which would evaluate what MONAI takes for an expression."""
    phantom = make_jsrt_phantom(setting.folder / "phantom", patients=24, size=64, seed=0)
    datalist, proof = find_datalist(phantom), setting.folder / "proof"
    for text in EXPRESSIONS:
        value = text.format(str(proof))
        for key, changed in (("image", value), ("label", [value] * len(datalist["classes"]))):
            items = [{**datalist["labeled"][0], key: changed}, *datalist["labeled"][1:]]
            (phantom / "strange.json").write_text(json.dumps({**datalist, "labeled": items}))
            changes = options(setting.folder, phantom, datalist=str(phantom / "strange.json"), epochs=1)
            code = run_in_fork("training", configs("train"), changes, setting.folder / "log.txt")
            last = (setting.folder / "log.txt").read_text().strip().splitlines()[-1]
            found = ran(REFUSED if code == 1 and str(proof) in last else ACCEPTED, proof)
            yield Tried("datalist: a file name that is an expression", found, f"{value} as {key}: {last}")


def ran(found: str, proof: Path) -> str:
    """The verdict, unless code was run before it."""
    return ACCEPTED if proof.exists() else found


def weights(setting: Setting) -> Iterator[Tried]:
    """By training's reader, which also reads checkpoints, and by that of inference."""
    setting.folder.mkdir(parents=True)
    proof, path = setting.folder / "proof", setting.folder / "model.pt"
    inference = lambda path: SCRIPTS["load_weights"](str(path))  # noqa: E731
    readers: dict[str, Callable] = {"training": load_checkpoint, "inference": inference}
    values = {"a": torch.arange(500.0), "b": {"epoch": 3}}
    torch.save(values, path)
    whole = path.read_bytes()
    for name, read in readers.items():
        for save in (torch.save, lambda program, path: path.write_bytes(pickle.dumps(program))):
            save({"a": Program(proof)}, path)
            yield Tried("weights that are a program", ran(verdict(lambda read=read: read(path)), proof), name)
        for kind, damage in DAMAGES.items():
            for _ in range(5 * setting.times):
                path.write_bytes(damage(whole, setting.rng))
                yield Tried(f"weights: {kind}", loaded(read, path, values), name)


def loaded(read: Callable, path: Path, values: dict) -> str:
    """Whether damaged weights are refused, or are those that were written."""
    state: dict = {}
    if verdict(lambda: state.update(read(path))) == REFUSED:
        return REFUSED
    same = state.keys() == values.keys() and torch.equal(state["a"], values["a"]) and state["b"] == values["b"]
    return SAME if same else ACCEPTED
