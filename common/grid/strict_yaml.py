"""YAML as `yaml.safe_load` reads it, but a key that occurs twice is an error instead of the last one winning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes plain Python values only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        if not all(isinstance(key, Hashable) for key in keys):
            raise yaml.constructor.ConstructorError(None, None, "a list or mapping is a key", node.start_mark)
        counts = Counter(keys)
        for name, count in counts.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} is there {count} times in one mapping", node.start_mark
                )
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: where it is no YAML, or has a key twice.
    """
    return yaml.load(text, Loader=StrictLoader)  # safe: the loader is SafeLoader's
