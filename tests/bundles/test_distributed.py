"""Two processes train together on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import ROOT, command, configs, environment, options, python, run_here, same, train_log, weights

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
# each process also saves its own network, for the comparison here
TELL = "$torch.save(@network.module.state_dict(), @output_dir + '/rank' + str(dist.get_rank()) + '.pt')"
# stops after one epoch of two and is resumed; both in the same processes, which saves time
IN_TWO_PARTS = """
import json, sys, torch.distributed as dist, monai.bundle
files, settings = json.loads(sys.argv[1])
run = {"run_id": "run", "config_file": files, "logging_file": False}
stop = "$@train#trainer.state.__setattr__('max_epochs', 1)"
monai.bundle.run(**run, **settings, run=[stop, "$@train#trainer.run()"])
dist.barrier()
monai.bundle.run(**run, **settings, run=["$@train#trainer.run()"], resume="true")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(phantom, tmp_path_factory) -> Path:
    """A run of two processes, over two epochs."""
    base = tmp_path_factory.mktemp("together")
    (base / "tell.json").write_text(
        json.dumps({"run": ["$@train#trainer.run()", TELL, "$dist.destroy_process_group()"]})
    )
    files = [*configs("train", "multi_gpu_train"), str(base / "tell.json")]
    python(*LAUNCH, *command("training", files, options(base / "run", phantom, epochs=2)))
    return base / "run"


def test_all_ranks_have_the_same_network(folder):
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert same(*ranks)
    assert len(ranks[0]) > 50


def test_saved_files_are_those_of_one_process(folder, trained):
    assert weights(folder).keys() == weights(trained).keys()
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["network"].keys() == weights(trained).keys()
    assert pd.read_csv(folder / "validation.csv")["epoch"].tolist() == [1, 2]
    assert train_log(folder)["iteration"].tolist() == [4, 8]
    assert (folder / "report.html").exists()


def test_evaluates_in_one_process(folder, phantom):
    run_here("evaluating", configs("train", "evaluate"), options(folder, phantom))
    scores = pd.read_csv(folder / "test.csv")
    assert len(scores) == 12 * 5
    assert np.isfinite(scores["iou"]).all()


def test_resumed_is_never_stopped(folder, phantom, tmp_path):
    script = tmp_path / "in_two_parts.py"
    script.write_text(IN_TWO_PARTS)
    settings = options(tmp_path / "run", phantom, epochs=2)
    arguments = json.dumps([configs("train", "multi_gpu_train"), settings])
    python(*LAUNCH, str(script), arguments, env=environment(PYTHONPATH=str(ROOT)))
    assert same(weights(tmp_path / "run"), weights(folder))
    pd.testing.assert_frame_equal(train_log(tmp_path / "run"), train_log(folder), check_exact=True)
