"""The folder of a run: what it holds is described, and an earlier run's results are kept."""

from __future__ import annotations

import json
import logging
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from common.files import read_json, replacing
from common.handlers.checkpoint import settings_file
from common.label_space import LabelSpace
from common.ranks import is_first_rank
from common.run_lock import RunLock, clear_leftovers

logger = logging.getLogger(__name__)
RUN_FILE, MODEL_FILE = "run.json", "model.pt"


class RunFolder:
    """Writes ``run.json``: the method, the classes, the settings, when the run started and how long it has trained.

    When a training starts in the folder of an earlier one, that folder is renamed to ``<output_dir>-<when it started>``
    and gets a copy of its model; with ``resume`` it stays, and must be of a run with the same settings. Of its
    own it writes nothing before the first epoch is over but the locks of both folders, which keep a second training out
    until this one ends. What a killed one left half written there is removed. Attach it before all handlers that read
    or write in the folder.

    Args:
        output_dir: folder of the run.
        ckpt_dir: folder of the best model.
        labels: the label space.
        method: the method object; its class name is the run's method.
        settings: what a reader of the report wants to know, by name.
        split: the split's index in the datalist.
        resume: go on with the run in the folder.
        seed: seed of the training.
        name: what the report calls the run; the method's name where not given.

    Raises:
        ValueError: when the run to resume has other settings; when another process trains in the folder.
    """

    def __init__(
        self,
        output_dir: str | Path,
        ckpt_dir: str | Path,
        labels: LabelSpace,
        method: Any,
        settings: dict[str, Any],
        split: int = 0,
        resume: bool = False,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self.path, self.model, self.resume = Path(output_dir) / RUN_FILE, Path(ckpt_dir) / MODEL_FILE, resume
        self.name = name or type(method).__name__
        self.content: dict[str, Any] = {
            "method": type(method).__name__,
            "classes": list(labels.classes),
            "mode": labels.mode,
            "split": split,
            "seed": seed,
            "settings": dict(settings),
        }
        self.before, self.clock = 0.0, 0.0
        self.locks: list[RunLock] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.release_at_the_end)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        if is_first_rank():
            keys = {self.model.parent.resolve(): "ckpt_dir", self.path.parent.resolve(): "output_dir"}
            for folder, key in keys.items():
                self.locks.append(RunLock(folder, key))
                clear_leftovers(folder)
        earlier = self.earlier()
        if earlier and self.resume:
            self.require_same(earlier)
        elif earlier and is_first_rank():
            self.move_aside(earlier)
            earlier = {}
        now = datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
        self.content["started"] = earlier.get("started", now)
        self.before, self.clock = float(earlier.get("seconds", 0.0)), time.perf_counter()

    def earlier(self) -> dict[str, Any]:
        """What an earlier run in the folder has written; nothing where there is none."""
        advice = "take it out, or give another output_dir"
        found = read_json(self.path, advice) if self.path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError(f"{self.path} must describe a run, got {str(found)[:80]}: {advice}.")
        return found

    def require_same(self, earlier: dict[str, Any]) -> None:
        """Refuses to go on with a run of another method, other data or other settings."""
        mine = json.loads(json.dumps(self.content))
        other = [
            f"{name} {theirs.get(name)!r}, got {ours[name]!r}"
            for ours, theirs in ((mine, earlier), (mine["settings"], earlier.get("settings", {})))
            for name in ours
            if name != "settings" and ours[name] != theirs.get(name)
        ]
        if other:
            raise ValueError(
                f"the run in {self.path.parent} has {'; '.join(other)}: resume it with its own settings, or give "
                f"another output_dir."
            )

    def move_aside(self, earlier: dict[str, Any]) -> None:
        """Renames the earlier run's folder and copies the model there; the model stays until there is a new one."""
        folder = self.path.parent.resolve()
        started = "".join(c for c in earlier.get("started", "earlier")[:19] if c.isalnum())
        aside, number = folder.with_name(f"{folder.name}-{started}"), 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{folder.name}-{started}.{number}")
        folder.rename(aside)  # with the locks held, whose files move along
        for lock in self.locks:
            if lock.folder.is_relative_to(folder):
                lock.renew(aside / lock.folder.relative_to(folder))
        for file in (self.model, settings_file(self.model)):
            if file.exists() and not (aside / file.name).exists():
                shutil.copy2(file, aside / file.name)
        logger.warning(f"Moved the earlier run in {folder} to {aside}; to go on with it instead, pass --resume true.")

    def release_at_the_end(self, engine: Engine) -> None:
        """Lets go of the folders after all that write when a run ends, which are added until an epoch begins."""
        if not engine.has_event_handler(self.unlock, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self.unlock)

    def unlock(self) -> None:
        while self.locks:
            self.locks.pop().release()

    def fail(self, engine: Engine, error: Exception) -> None:
        self.unlock()
        raise error

    def write(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        self.content["seconds"] = round(self.before + time.perf_counter() - self.clock, 1)
        self.content["epoch"], self.content["epochs"] = engine.state.epoch, engine.state.max_epochs
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps({"name": self.name, **self.content}, indent=1))
