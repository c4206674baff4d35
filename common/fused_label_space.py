"""Training on fine classes, evaluation on coarse ones: how the fine classes make up the coarse ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.files import first_few
from common.label_space import LabelSpace

FORM = '{"classes": {"left_lung": ["left_upper_lobe", "left_lower_lobe"]}, "unused": ["trachea"]}'


class FusedLabelSpace(LabelSpace):
    """The label space of a network of fine classes, as who evaluates it sees it (Seibold et al. 2022, extended JSRT).

    Outputs and their labels are those of the fine label space, but :meth:`masks` and the names are of the coarse
    classes: a pixel belongs to a coarse class where it belongs to at least one of its fine classes. So metrics,
    scores, pictures and reports that ask this object show the coarse classes, and a loss trains the fine ones. A
    multi-label truth may also be given in the coarse classes, as JSRT's own masks are.

    Coarse classes may share fine classes; in multi-class, where their masks overlap then.

    Args:
        fine: the label space of the network.
        groups: names of the fine classes that make up each coarse class.
        unused: names of the fine classes that belong to no coarse class, so that none is left out by mistake.

    Raises:
        ValueError: when a class is unknown, is left out, is both used and unused, or occurs twice in one list, or
            when there are not more fine than coarse classes.
    """

    def __init__(self, fine: LabelSpace, groups: Mapping[str, Sequence[str]], unused: Sequence[str] = ()) -> None:
        super().__init__(list(groups), fine.mode)
        _check_groups(fine.classes, groups, unused)
        self.fine = fine
        self.groups = [[fine.classes.index(name) for name in names] for names in groups.values()]

    @property
    def num_outputs(self) -> int:
        return self.fine.num_outputs

    @property
    def forms(self) -> tuple[tuple[str, ...], ...]:
        return (*self.fine.forms, self.classes)

    def predict(self, logits: Tensor) -> Tensor:
        return self.fine.predict(logits)

    def masks(self, label: Tensor) -> Tensor:
        """One mask for each coarse class, ``B C H W [D]`` of 0 and 1, from a label of either form."""
        if self.multilabel and label.shape[1] == self.num_classes:
            return label
        masks = self.fine.masks(label)
        return torch.stack([masks[:, group].amax(dim=1) for group in self.groups], dim=1)

    def cross_entropy(self, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.fine.cross_entropy(logits, label, weight)


def load_fusion(file: str | Path, labels: LabelSpace) -> FusedLabelSpace:
    """The label space that a JSON file makes of ``labels``.

    The file holds ``classes``, the list of fine classes of each coarse class, and ``unused``, the list of those that
    belong to none.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no JSON, of another form, or does not fit the label space (see `FusedLabelSpace`).
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file. A map of classes is needed to fuse them, as {FORM}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_without_repetition)
        _check_form(content)
        return FusedLabelSpace(labels, content["classes"], content["unused"])
    except ValueError as error:  # JSONDecodeError is one
        reason = f"a map of classes must be JSON, got: {error}." if isinstance(error, json.JSONDecodeError) else error
        raise ValueError(f"{file}: {reason}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's own reading of an object keeps the last of equal keys without a word."""
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"each key must occur once, got {first_few(repeated)} twice. Put them together.")
    return dict(pairs)


def _check_form(content: Any) -> None:
    well_formed = (
        isinstance(content, dict)
        and set(content) == {"classes", "unused"}
        and isinstance(content["classes"], dict)
        and all(_is_list_of_names(names) and names for names in content["classes"].values())
        and _is_list_of_names(content["unused"])
    )
    if not well_formed:
        raise ValueError(f"a map of classes must have the form {FORM}, got {str(content)[:200]}.")


def _is_list_of_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _check_groups(classes: Sequence[str], groups: Mapping[str, Sequence[str]], unused: Sequence[str]) -> None:
    lists = {**{f"'{name}'": list(names) for name, names in groups.items()}, "'unused'": list(unused)}
    for where, names in lists.items():
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{where} must name each class once, got {first_few(twice)} twice. Take one out.")
    used = [name for names in groups.values() for name in names]
    unknown = sorted({*used, *unused} - set(classes))
    if unknown:
        raise ValueError(
            f"the map must name classes of the data ({first_few(classes)}), got {first_few(unknown)}. "
            "Correct the names, or make the datalist with the fine classes."
        )
    left_out = sorted(set(classes) - {*used, *unused})
    if left_out:
        raise ValueError(
            f"every class must be in the map, got none of {first_few(left_out)}. Add them to a coarse class or to "
            "'unused'."
        )
    both = sorted(set(used) & set(unused))
    if both:
        raise ValueError(f"'unused' must name classes of no coarse class, got {first_few(both)}. Take them out.")
    if len(groups) >= len(classes):
        raise ValueError(
            f"there must be more fine than coarse classes, got {len(classes)} and {len(groups)}. Train on them as "
            "they are, without a map."
        )
