"""A run's command line says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from common.bundle_run import bundle_command


@pytest.mark.parametrize(
    "value",
    [
        "RPG+",
        "3",
        '\'$__import__("os").system("true")\'',
        "['$1 + 1']",
        "{'_target_': 'os.system'}",
        '"quoted"',
        "a 'b' \"c\"",
        "$@cache_dir + '/x'",
        3,
        0.5,
        True,
        [64, 64],
        {"_target_": "common.losses.Dice", "background": True},
    ],
)
def test_values_arrive_as_they_are(tmp_path, value):
    """MONAI reads its command line by Fire, to which a text in quotes or brackets is what is within."""
    command = bundle_command("training", tmp_path, Path("bundle"), "RPG", tmp_path / "a.json", [], {"value": value})
    assert DefaultParseValue(command[command.index("--value") + 1]) == value
