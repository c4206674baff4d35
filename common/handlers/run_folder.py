"""The folder of a run: prepared before it starts, described while it runs."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from common.files import replacing
from common.handlers.ranks import is_first_rank
from common.label_space import LabelSpace

logger = logging.getLogger(__name__)
RUN_FILE, CHECKPOINT_FILE, MODEL_FILE = "run.json", "checkpoint.pt", "model.pt"


def prepare_run(output_dir: str | Path, ckpt_dir: str | Path, resume: bool = False) -> None:
    """Moves an earlier run's folder and model aside, so that no result is lost, unless the run is to be resumed.

    Args:
        output_dir: folder of the run; an earlier run in it is renamed to ``<output_dir>-<when it was started>``.
        ckpt_dir: folder of the best model, which moves along.
        resume: leave everything where it is.
    """
    output_dir, model = Path(output_dir), Path(ckpt_dir) / MODEL_FILE
    if resume or not is_first_rank() or not (output_dir / RUN_FILE).exists():
        return
    started = json.loads((output_dir / RUN_FILE).read_text()).get("started", "earlier")
    aside = output_dir.with_name(f"{output_dir.name}-{''.join(c for c in started if c.isalnum())}")
    number = 1
    while aside.exists():
        number += 1
        aside = aside.with_name(f"{aside.name.split('.')[0]}.{number}")
    output_dir.rename(aside)
    if model.exists():
        model.rename(aside / MODEL_FILE)
    logger.warning(
        f"Moved the earlier run in {output_dir} to {aside}; to go on with it instead, pass --resume true."
    )


class RunFolder:
    """Writes ``run.json``: the method, the classes, the settings, when the run started and how long it has trained.

    Args:
        output_dir: folder of the run.
        labels: the label space.
        method: the method object; its class name is the run's method.
        settings: what a reader of the report wants to know, by name.
        split: the split's index in the datalist.
    """

    def __init__(
        self,
        output_dir: str | Path,
        labels: LabelSpace,
        method: Any,
        settings: dict[str, Any],
        split: int = 0,
    ) -> None:
        self.path = Path(output_dir) / RUN_FILE
        self.content = {
            "method": type(method).__name__,
            "classes": list(labels.classes),
            "mode": labels.mode,
            "split": split,
            "settings": dict(settings),
        }
        self.before, self.clock = 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        started = datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
        earlier = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.content["started"] = earlier.get("started", started)
        self.before, self.clock = float(earlier.get("seconds", 0.0)), time.perf_counter()
        self.write(engine)

    def write(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        self.content["seconds"] = round(self.before + time.perf_counter() - self.clock, 1)
        self.content["epoch"], self.content["epochs"] = engine.state.epoch, engine.state.max_epochs
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1))
