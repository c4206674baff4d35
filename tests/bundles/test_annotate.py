"""The command that lists what to annotate next, on a run of a bundle."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
import torch

from common.__main__ import Commands
from common.annotation import open_order


def test_a_run_s_images_are_listed_and_written(trained, tmp_path, capsys):
    file = tmp_path / "next.csv"
    Commands().annotate(str(trained), "weight", count=2, output=str(file))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    table = pd.read_csv(file)
    assert table["place"].tolist() == list(range(1, len(table) + 1))
    assert table["score"].is_monotonic_decreasing
    assert lines[0].split()[-1] == table["image"][0]
    order = open_order(trained)
    assert set(table["image"]) == {order.unlabeled.name(row) for row in range(len(order.unlabeled))}
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(weights[key], value) for key, value in order.network.state_dict().items())


def test_of_what_is_no_run(trained, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"must be the folder of a finished run .*, got none of its configs/train\.json, models",
    ):
        open_order(tmp_path)
    damaged = tmp_path / "run"
    shutil.copytree(trained, damaged)
    content = damaged / "models" / "model.pt"
    content.write_bytes(content.read_bytes()[:1000])
    with pytest.raises(ValueError, match="must be a checkpoint of tensors and numbers"):
        open_order(damaged)
