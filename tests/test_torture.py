"""The campaign against what must not pass in silence, in short, and that it would tell if something did."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

TORTURE = Path(__file__).parent / "torture"


@pytest.fixture(autouse=True)
def found_as_in_the_command(monkeypatch):
    for folder in (Path(__file__).parent / "bundles", TORTURE):
        monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    "name", ["files", "volumes", "leaks", "patients", "masks", "grids", "datalists", "weights", "checkpoints"]
)
def test_nothing_on_the_list_is_wrongly_accepted(tmp_path, name):
    from campaigns import CAMPAIGNS
    from tried import ACCEPTED, Setting

    tried = list(CAMPAIGNS[name](Setting(tmp_path / name, np.random.default_rng(1), 1)))
    assert len(tried) >= 1
    assert [one for one in tried if one.verdict == ACCEPTED] == []


def test_what_passes_is_counted_and_ends_with_status_1(tmp_path, monkeypatch, capsys):
    import campaigns
    from tried import ACCEPTED, REFUSED, SAME, Tried

    found = [Tried("cut", REFUSED), Tried("cut", ACCEPTED, "a.png"), Tried("flipped", SAME)]

    def ends_early(setting):
        yield Tried("cut", REFUSED)
        raise ValueError("no phantom")

    monkeypatch.setattr(campaigns, "CAMPAIGNS", {"broken": ends_early, "files": lambda setting: iter(found)})
    monkeypatch.setattr(sys, "argv", ["torture"])
    main = __import__("runpy").run_path(str(TORTURE / "__main__.py"))["main"]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert "| cut | 3 | 2 | 0 | 1 |" in lines
    assert "| all | 4 | 2 | 1 | 1 |" in lines
    assert lines[-2:] == ["cut: a.png", "broken ended with ValueError: no phantom"]
