"""Charts and pictures of a gate: what it accepted, and whether it was right."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import draw_masks
from .charts import Chart, line_chart, lines_of
from .reading import read_arrays
from .runs import Run
from .style import class_colors
from .text import number

FILE = "gate.npz"
NEEDED = ("image", "pseudo_label", "truth", "accepted", "score", "dice", "name")
HALF = 0.5


def gate_charts(run: Run) -> list[Chart]:
    """What the gate of a method accepted while training; empty for a method without one."""
    auc = (
        "Of all pairs of unlabelled images whose pseudo-labels differ in Dice with the hidden truth, the share in "
        "which the gate gives the better one the higher score: 1 is perfect, 0.5 chance."
    )
    scores = {"discriminator_real": ("labelled", "series-1"), "discriminator_fake": ("predicted", "series-2")}
    dice = {"dice_accepted": ("accepted", "series-1"), "dice_refused": ("refused", "series-2")}
    plans = (
        (
            "Accepted by the gate",
            "Share of the unlabelled images, or of their classes or pixels, that the gate lets teach.",
            {"accepted": ("accepted", "ink")},
            True,
        ),
        ("Dice of accepted and refused", "With the hidden truth: right where the accepted are higher.", dice, True),
        ("ROC AUC of the gate", auc, {"gate_auc": ("AUC", "ink")}, True),
        (
            "What the discriminator says",
            "Its mean output for labelled masks, which should be 1, and for predicted ones, which should be 0.",
            scores,
            True,
        ),
        (
            "Loss of the discriminator",
            "Cross-entropy of labelled against predicted masks; 0.693 is that of guessing.",
            {"discriminator_loss": ("loss", "ink")},
            False,
        ),
    )
    if run.train is None:
        return []
    found = [(*words, lines_of(run.train, columns), unit) for *words, columns, unit in plans]
    return [line_chart(title, caption, lines, unit=unit) for title, caption, lines, unit in found if lines]


def gate_rows(run: Run) -> list[dict[str, Any]]:
    """Panels of accepted and of refused images of the last epoch, each with its truth where that is known.

    Raises:
        ValueError: when the file of them is malformed; it names the file.
    """
    path = run.folder / FILE
    if not path.is_file():
        return []
    arrays = read_arrays(path, NEEDED)
    count, shape = len(arrays["image"]), arrays["image"].shape[1:]
    masks = (count, len(run.classes), *shape)
    for key, expected in {"pseudo_label": masks, "truth": masks, "accepted": (count,)}.items():
        if arrays[key].shape != expected:
            raise ValueError(f"{path}: {key} must have the shape {expected}, got {arrays[key].shape}: train again")
    shades, rows = list(class_colors(run.classes).values()), []
    for title, chosen in (("Accepted", arrays["accepted"] > HALF), ("Refused", arrays["accepted"] <= HALF)):
        panels = []
        for place in np.flatnonzero(chosen):
            image, dice = arrays["image"][place], float(arrays["dice"][place])
            facts = f"score {number(float(arrays['score'][place]))}"
            panels.append(("Pseudo-label", facts, draw_masks(image, arrays["pseudo_label"][place] > 0, shades)))
            if not np.isnan(dice):
                truth = draw_masks(image, arrays["truth"][place] > 0, shades)
                panels.append(("Truth", f"Dice {number(dice)}", truth))
        if panels:
            rows.append({"name": title, "facts": f"{int(chosen.sum())} of the last epoch", "panels": panels})
    return rows
