"""MONAI Label's app for bundles, with strategies that ask the last training what to annotate next.

It lies in the app's folder as ``main.py``, beside the app's own one as ``stock.py``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import stock
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from common.annotation import open_order

logger = logging.getLogger(__name__)
ASKED = ("distance", "disagreement", "weight")


class Next(Strategy):
    """The first image of a run's order that has no label yet; any one while nothing has been trained.

    Args:
        name: of ``common.annotation.STRATEGIES``.
        model: folder of the bundle's copy, in whose ``eval`` the last training's run lies.
    """

    def __init__(self, name: str, model: Path) -> None:
        super().__init__(f"What the last training is least sure of or knows least, by {name}")
        self.name, self.run = name, model / "eval"
        self.known: tuple[float, list[str]] = 0.0, []

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        places = {str(Path(datastore.get_image_uri(image)).resolve()): image for image in images}
        found = next((places[file] for file in self.order() if file in places), None)
        if found is None:
            logger.warning(
                f"{self.name}: no training has seen any of the {len(images)} images, which are in any order."
            )
        return {"id": images[0] if found is None else found}

    def order(self) -> list[str]:
        """Files of all images that the last training had no label of; asked for once after each training."""
        weights = self.run / "models" / "model.pt"
        if not weights.is_file():
            return []
        if weights.stat().st_mtime != self.known[0]:
            order = open_order(self.run)
            files = [order.unlabeled.data[row]["image"] for place in order.places(self.name) for row in place.rows]
            self.known = weights.stat().st_mtime, [str(Path(file).resolve()) for file in files]
        return self.known[1]


class MyApp(stock.MyApp, MONAILabelApp):  # the server looks among the immediate bases
    """The app for bundles; with several of them, strategies ask the first."""

    def init_strategies(self) -> dict[str, Strategy]:
        model = Path(next(iter(self.models.values())))
        return {**super().init_strategies(), **{name: Next(name, model) for name in ASKED}}
