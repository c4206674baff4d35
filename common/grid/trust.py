"""What of a grid file would run code: MONAI evaluates expressions, and calls whatever `_target_` names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# classes that a method, a network, an optimizer are made of; their construction reads, writes and starts nothing (that
# of some of MONAI's other losses and networks fetches weights, or code)
PARTS = re.compile(
    r"common\.(losses|methods|networks|schedule|sources|terms|views|weights)\.[A-Z]\w*"
    r"|torch\.(nn|optim|optim\.lr_scheduler)\.[A-Z]\w*"
    r"|monai\.losses\.(Dice|DiceCE|DiceFocal|GeneralizedDice|Focal|Tversky)Loss"
    r"|monai\.networks\.nets\.(AttentionUnet|BasicUNet|DynUNet|SegResNet|UNet|VNet)"
)


def code(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Where a file's content holds code, each place with the text that is found there.

    Code are texts that begin with ``$`` (expressions) or ``%`` (parts of other files), ``_target_`` that names anything
    but a part of a method, a network or an optimizer, and ``_mode_`` and ``_debug_``, which may start a debugger.
    """
    name = re.split(r"[.#:]", key)[-1]
    if name in ("_mode_", "_debug_"):
        yield key, str(value)
    elif isinstance(value, dict):
        for inner, part in value.items():
            yield from code(part, f"{key}.{inner}".lstrip("."))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from code(part, f"{key}[{index}]")
    elif isinstance(value, str) and (
        value.startswith(("$", "%")) or (name == "_target_" and not PARTS.fullmatch(value))
    ):
        yield key, value
