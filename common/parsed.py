"""The configuration of a bundle that is just being parsed: MONAI does not hand it to what it makes."""

from __future__ import annotations

import copy
import sys
from typing import Any

from monai.bundle import ConfigParser


def parsed_configuration() -> dict[str, Any] | None:
    """The configuration with what was set on the command line, or by an annotation tool; None outside of a parser.

    It is looked up among the callers.
    """
    frame = sys._getframe(1)
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return copy.deepcopy(parser.config)
        frame = frame.f_back
    return None
