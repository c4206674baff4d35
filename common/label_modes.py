"""Whether classes may overlap, apart from what works with them, which needs torch."""

from __future__ import annotations

MODES = ("multilabel", "multiclass")
