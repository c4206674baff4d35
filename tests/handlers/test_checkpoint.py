"""A run that was stopped goes on as if it had not been, and a checkpoint is whole or refused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler
from torch import nn

from common.handlers import BestModel, Checkpoint, LastModel, TrainingLog, ValidationScores, load_weights
from common.handlers.checkpoint import load_checkpoint, random_state, set_random_state
from common.methods import RPG, Supervised
from common.networks import BasicUNet


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(iteration):
    """A handler that ends the run in the middle of an epoch."""

    def handler(engine):
        if engine.state.iteration == iteration:
            raise Killed

    return handler


@pytest.fixture
def make_run(make_trainer, make_evaluator, labels, tmp_path):
    """``make_run(folder, resume, kill)``: a trainer with all that a run keeps, in a folder of its own."""

    def make(folder="run", resume=False, kill=None, method=RPG, epochs=3, interval=1, iterations=3, **options):
        folder = tmp_path / folder
        method = method(labels)

        def handlers(network, optimizer, scheduler, loader):
            best = BestModel(folder / "model.pt", network)
            scores = ValidationScores(folder / "validation.csv", labels, iterations)
            objects = {
                "network": network,
                "optimizer": optimizer,
                "lr_scheduler": scheduler,
                "method": method,
                "loader": loader,
                "best_model": best,
            }
            return [
                Checkpoint(folder / "checkpoint.pt", objects, resume, interval),
                ValidationHandler(1, make_evaluator(network, labels, [scores, best])),
                TrainingLog(folder / "train.csv", labels, interval=2),
            ]

        trainer = make_trainer(method, handlers, epochs, iterations, **options)
        if kill:
            trainer.add_event_handler(Events.ITERATION_COMPLETED, kill_at(kill))
        return trainer

    return make


def same(first, second):
    """Whether two nested states are the same bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("kill", [1, 4, 6, 8])
def test_a_run_killed_and_resumed_ends_as_one_never_stopped(make_run, tmp_path, kill):
    """Bit by bit: weights, optimizer, scheduler, generators, best model, tables. The network has dropout."""
    make_run("whole").run()
    with pytest.raises(Killed):
        make_run("stopped", kill=kill).run()
    # a resumed process starts from other weights and generators; before the first checkpoint the seed decides
    make_run("stopped", resume=True, seed=77 if kill > 3 else 0).run()
    whole, stopped = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "stopped"))
    assert whole["trainer"] == {"epoch": 3, "epoch_length": 3}
    assert whole["loader"] == {"position": 9}
    for name in whole:
        if name != "random":
            assert same(whole[name], stopped[name]), name
    assert torch.equal(whole["random"]["torch"], stopped["random"]["torch"])
    models = [load_checkpoint(tmp_path / name / "model.pt") for name in ("whole", "stopped")]
    assert same(*models)
    texts = [(tmp_path / name / "validation.csv").read_text() for name in ("whole", "stopped")]
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 1 + 3


def test_resuming_a_finished_run_changes_nothing(make_run, tmp_path):
    make_run().run()
    before = {path.name: path.read_bytes() for path in tmp_path.joinpath("run").glob("*.csv")}
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    trainer = make_run(resume=True)
    trainer.run()
    assert trainer.state.epoch == 3
    assert {path.name: path.read_bytes() for path in tmp_path.joinpath("run").glob("*.csv")} == before
    assert same(load_checkpoint(tmp_path / "run" / "checkpoint.pt")["network"], state["network"])


def test_resume_without_a_checkpoint_starts_from_the_beginning(make_run):
    trainer = make_run(resume=True, epochs=1)
    trainer.run()
    assert trainer.state.iteration == 3


def test_without_resume_an_existing_checkpoint_is_not_looked_at(make_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    make_run(epochs=1).run()
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["epoch"] == 1


def test_interval_and_the_end(make_run, tmp_path):
    with pytest.raises(Killed):
        make_run(interval=2, kill=8).run()
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["epoch"] == 2
    make_run(interval=2, resume=True).run()
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["epoch"] == 3


def test_an_epoch_that_was_broken_off_is_not_saved_as_a_whole_one(make_run, tmp_path):
    trainer = make_run()
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: engine.terminate() if engine.state.iteration == 5 else None
    )
    trainer.run()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert (state["trainer"]["epoch"], state["loader"]["position"]) == (1, 3)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(make_run, tmp_path):
    class Broken(RPG):
        def losses(self, step):
            factor = float("nan") if step.iteration == 5 else 1
            return {name: factor * term for name, term in super().losses(step).items()}

    with pytest.raises(FloatingPointError, match="iteration 5"):
        make_run(method=Broken).run()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["trainer"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["network"].values())


def test_weights_that_are_not_finite_are_not_saved(make_run, tmp_path):
    trainer = make_run()
    path = tmp_path / "run" / "checkpoint.pt"

    def spoil(engine):
        if engine.state.iteration == 6:
            with torch.no_grad():
                engine.network.final_conv.weight[0] = torch.nan

    trainer.add_event_handler(Events.ITERATION_COMPLETED, spoil)
    with pytest.raises(FloatingPointError, match=r"final_conv\.weight.*epoch 2"):
        trainer.run()
    assert load_checkpoint(path)["trainer"]["epoch"] == 1


# What a checkpoint may not be


def saved(tmp_path, name="checkpoint.pt", network=None, **changes):
    """A checkpoint of a plain engine, and the engine."""
    network = network or nn.Linear(3, 2)
    engine = Engine(lambda *_: None)
    engine.state.epoch, engine.state.iteration, engine.state.epoch_length = 2, 10, 5
    checkpoint = Checkpoint(tmp_path / name, {"network": network, **changes}, resume=True)
    checkpoint.save(engine)
    return checkpoint, engine


def test_another_network_is_refused(tmp_path):
    checkpoint, engine = saved(tmp_path)
    other = Checkpoint(checkpoint.path, {"network": nn.Linear(4, 2)}, resume=True)
    with pytest.raises(ValueError, match=r"does not fit this run's network: .*size mismatch"):
        other.load(engine)
    other = Checkpoint(checkpoint.path, {"network": nn.Sequential(nn.Linear(3, 2))}, resume=True)
    with pytest.raises(ValueError, match=r"network: .*Missing key"):
        other.load(engine)


def test_another_optimizer_or_method_is_refused(tmp_path, multilabel):
    network = nn.Linear(3, 2)
    checkpoint, engine = saved(tmp_path, optimizer=torch.optim.SGD(network.parameters(), 0.1))
    groups = [{"params": [network.weight]}, {"params": [network.bias]}]
    other = Checkpoint(checkpoint.path, {"network": network, "optimizer": torch.optim.SGD(groups, 0.1)}, resume=True)
    with pytest.raises(ValueError, match="does not fit this run's optimizer"):
        other.load(engine)
    method = Supervised(multilabel)
    method.teacher = nn.Linear(1, 1)
    checkpoint, engine = saved(tmp_path, method=method)
    with pytest.raises(ValueError, match=r"does not fit this run's method: .*teacher"):
        Checkpoint(checkpoint.path, {"method": Supervised(multilabel)}, resume=True).load(engine)
    with pytest.raises(ValueError, match="method#class 'Supervised', got 'RPG'"):
        Checkpoint(checkpoint.path, {"method": RPG(multilabel)}, resume=True).load(engine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keywords": {"neighbors": 0.3}}, "source#neighbors 0.5, got 0.3"),
        ({"keywords": {"neighbors": 0.5, "unsupervised_weight": 2.0}}, "unsupervised_weight 1.0, got 2.0"),
        ({"keywords": {"neighbors": 0.5, "seed": 3}}, "method#seed 0, got 3"),
        ({"batch": {"labeled_batch": 3}}, "loader#labeled_batch 2, got 3"),
        ({"batch": {"unlabeled_batch": 3}}, "loader#unlabeled_batch 2, got 3"),
        ({"batch": {"seed": 5}}, "loader#seed 0, got 5"),
        ({"lr": 0.02}, "optimizer#lr 0.01, got 0.02"),
        ({"gamma": 0.1}, "lr_scheduler#gamma 0.5, got 0.1"),
        ({"exchanged": True}, r"loader#images#labeled#0 labeled0\.png '\w+', got '\w+'"),
    ],
)
def test_other_settings_or_images_are_refused(tmp_path, multilabel, make_batches, make_trainer, changes, message):
    """A resumed run that accepted another k, threshold, batch or image would be neither of the two."""

    def load(resume, keywords=None, batch=None, lr=0.01, gamma=0.5, exchanged=False):
        method = RPG(multilabel, **(keywords or {"neighbors": 0.5}))
        batches = make_batches(method, **(batch or {}))
        if exchanged:
            batches.stores["labeled"]._entries[0].header["content"] = "exchanged"

        def handlers(network, optimizer, scheduler, loader):
            optimizer.defaults["lr"], scheduler.gamma = lr, gamma
            objects = {"network": network, "optimizer": optimizer, "lr_scheduler": scheduler}
            objects |= {"method": method, "loader": loader}
            return [Checkpoint(tmp_path / "checkpoint.pt", objects, resume)]

        make_trainer(method, handlers, epochs=1, batches=batches).run()

    load(False)
    load(True)
    with pytest.raises(ValueError, match=message):
        load(True, **changes)


def test_another_epoch_length_is_refused(tmp_path):
    checkpoint, engine = saved(tmp_path)
    engine.state.epoch_length = 7
    with pytest.raises(ValueError, match="5 iterations in an epoch, got 7"):
        checkpoint.load(engine)


def test_weights_alone_are_no_checkpoint(tmp_path):
    checkpoint, engine = saved(tmp_path)
    torch.save(nn.Linear(3, 2).state_dict(), checkpoint.path)
    with pytest.raises(ValueError, match=r"got none of network, random, settings, trainer"):
        checkpoint.load(engine)


def test_no_flipped_bit_is_loaded_in_silence(tmp_path):
    """Either the file is refused, or the bit is one that holds nothing: a date, or what fills up to a boundary."""
    checkpoint, _ = saved(tmp_path, network=nn.Linear(40, 20))
    whole, state = checkpoint.path.read_bytes(), load_checkpoint(checkpoint.path)
    found = []
    for place in np.random.default_rng(0).integers(8 * len(whole), size=150):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        checkpoint.path.write_bytes(changed)
        try:
            found.append(same(load_checkpoint(checkpoint.path), state))
        except ValueError:
            found.append(None)
    assert False not in found
    assert found.count(None) > 75  # most of the file is weights


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_checkpoint_costs_one_epoch(make_run, tmp_path, damage, caplog):
    """It is gone on from the one before, and ends as if nothing had been."""
    make_run("whole").run()
    with pytest.raises(Killed):
        make_run("stopped", kill=8).run()
    path = tmp_path / "stopped" / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 2000)
    content[middle] = bytes(255 - byte for byte in content[middle])
    path.write_bytes(content[: 1000 if damage == "cut" else None])
    if damage == "missing":
        path.unlink()
    make_run("stopped", resume=True, seed=77).run()
    assert f"Going on from {path.with_name('checkpoint.previous.pt')}" in caplog.text
    whole, stopped = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "stopped"))
    assert all(same(whole[name], stopped[name]) for name in whole if name != "random")
    texts = [(tmp_path / name / "validation.csv").read_text() for name in ("whole", "stopped")]
    assert texts[0] == texts[1]


def test_a_damaged_checkpoint_never_replaces_the_one_before(tmp_path):
    checkpoint, engine = saved(tmp_path)
    checkpoint.save(engine)
    before = checkpoint.previous.read_bytes()
    checkpoint.path.write_bytes(b"damaged")
    again = Checkpoint(checkpoint.path, {"network": nn.Linear(3, 2)}, resume=True)
    again.load(engine)
    again.save(engine)
    assert again.previous.read_bytes() == before
    assert load_checkpoint(again.path)["trainer"]["epoch"] == 2
    last = again.path.read_bytes()
    engine.state.epoch, engine.state.iteration = 3, 15
    again.save(engine)
    assert again.previous.read_bytes() == last


@pytest.mark.parametrize("links", [True, False])
def test_keeping_the_one_before(tmp_path, monkeypatch, links):
    """Where files can have two names, there is a checkpoint at every moment."""
    checkpoint, engine = saved(tmp_path)
    first = checkpoint.path.read_bytes()
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("not supported")))
    checkpoint.keep()
    assert checkpoint.path.exists() == links
    checkpoint.save(engine)
    assert load_checkpoint(checkpoint.path)["trainer"]["epoch"] == engine.state.epoch
    assert checkpoint.previous.read_bytes() == first


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    checkpoint, engine = saved(tmp_path)
    whole = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"checkpoint\.pt must be a checkpoint .* torch cannot read"):
        checkpoint.load(engine)


class Danger:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    checkpoint, engine = saved(tmp_path)
    torch.save({"network": Danger()}, checkpoint.path)
    with pytest.raises(ValueError, match="torch cannot read"):
        checkpoint.load(engine)
    assert "executed" not in capsys.readouterr().out


def test_an_error_in_the_middle_of_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint, engine = saved(tmp_path)
    before = checkpoint.path.read_bytes()

    def half(state, path):
        path.write_bytes(before[: len(before) // 2])
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        checkpoint.save(engine)
    assert checkpoint.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint.path]


def test_generators_go_on_where_they_were():
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    np.random.randn()  # leaves a second Gaussian number behind
    random.gauss(0, 1)
    state = random_state()
    drawn = [random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.rand(2)]
    random.seed(4), np.random.seed(4), torch.manual_seed(4)
    set_random_state(state)
    assert same(drawn, [random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.rand(2)])


# The best model


class FixedScore:
    """An evaluator's engine whose scores are given."""

    def __init__(self, handler, scores):
        self.engine = Engine(lambda *_: None)
        self.engine.state.key_metric_name = "iou"
        self.handler, self.scores = handler, scores

    def run(self):
        for epoch, score in self.scores:
            self.engine.state.epoch, self.engine.state.metrics = epoch, {"iou": score}
            with torch.no_grad():
                self.handler.network.weight.fill_(epoch)
            self.handler(self.engine)


def test_best_model_is_that_of_the_best_validation(tmp_path):
    best = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    FixedScore(best, [(1, 0.2), (2, 0.6), (3, 0.6), (4, 0.3), (5, float("nan"))]).run()
    assert load_checkpoint(tmp_path / "model.pt")["weight"].item() == 2
    assert best.state_dict() == {"best": 0.6, "epoch": 2}


def test_the_best_score_is_known_after_a_resume(tmp_path):
    first = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    FixedScore(first, [(1, 0.6)]).run()
    second = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    second.load_state_dict(first.state_dict())
    FixedScore(second, [(2, 0.5)]).run()
    assert load_checkpoint(tmp_path / "model.pt")["weight"].item() == 1
    FixedScore(second, [(3, 0.7)]).run()
    assert load_checkpoint(tmp_path / "model.pt")["weight"].item() == 3


def test_a_score_of_zero_is_better_than_none(tmp_path):
    best = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    FixedScore(best, [(1, 0.0)]).run()
    assert (tmp_path / "model.pt").exists()


def test_masks_that_show_no_class_choose_no_epoch(tmp_path):
    best = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    scores = FixedScore(best, [(1, 0.0)])
    scores.engine.state.metric_details = {"iou": torch.full((3, 2), torch.nan)}
    scores.run()
    assert best.epoch == 0 and not (tmp_path / "model.pt").exists()
    scores.engine.state.metric_details = {"iou": torch.tensor([[torch.nan, 0.0]])}
    scores.run()
    assert best.epoch == 1


def test_an_evaluator_without_key_metric_is_refused(tmp_path):
    scores = FixedScore(BestModel(tmp_path / "model.pt", nn.Linear(1, 1)), [(1, 0.5)])
    scores.engine.state.key_metric_name = None
    with pytest.raises(ValueError, match="key_val_metric"):
        scores.run()


def test_load_weights(tmp_path):
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(FileNotFoundError, match="train first"):
        load_weights(tmp_path / "model.pt", other)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert load_weights(tmp_path / "model.pt", other) is other
    assert same(network.state_dict(), other.state_dict())
    with pytest.raises(ValueError, match="weights of this network"):
        load_weights(tmp_path / "model.pt", nn.Linear(2, 2))
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="torch cannot read"):
        load_weights(tmp_path / "model.pt", other)


def test_a_process_killed_while_it_saves_leaves_a_checkpoint_that_loads(tmp_path):
    """SIGKILL, at a moment that the process cannot choose, while it does nothing but save."""
    program = (
        "import sys, torch\n"
        "from ignite.engine import Engine\n"
        "from common.handlers import Checkpoint\n"
        "engine = Engine(lambda *_: None)\n"
        "network = torch.nn.Linear(500, 500)\n"
        "checkpoint = Checkpoint(sys.argv[1], {'network': network})\n"
        "for epoch in range(1, 1_000_000):\n"
        "    engine.state.epoch, engine.state.epoch_length, engine.state.iteration = epoch, 1, epoch\n"
        "    checkpoint.save(engine)\n"
        "    if epoch == 3:\n"
        "        print('saving', flush=True)\n"
    )
    path = tmp_path / "checkpoint.pt"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"saving\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    state = load_checkpoint(path)
    assert state["trainer"]["epoch"] >= 3
    nn.Linear(500, 500).load_state_dict(state["network"])


# The last model


def trained(tmp_path, validate, always=False, epochs=2):
    """Runs an engine whose network's weight is the number of the epoch; gives what the model's file holds by epoch."""
    network, held = nn.Linear(1, 1), []
    best = BestModel(tmp_path / "model.pt", network)
    engine = Engine(lambda *_: None)

    def epoch_completed(engine):
        with torch.no_grad():
            network.weight.fill_(engine.state.epoch)
        if validate and engine.state.epoch == 1:
            FixedScore(best, [(1, 0.5)]).run()

    engine.add_event_handler(Events.EPOCH_COMPLETED, epoch_completed)
    LastModel(tmp_path / "model.pt", network, best, always).attach(engine)
    path = tmp_path / "model.pt"
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda _: held.append(path.exists() and load_checkpoint(path)["weight"].item())
    )
    engine.run([0], max_epochs=epochs)
    return [*held, load_checkpoint(path)["weight"].item()]


def test_without_any_validation_the_last_weights_are_the_model_and_it_is_said(tmp_path, caplog):
    assert trained(tmp_path, validate=False) == [False, False, 2]
    assert "Nothing was validated in 2 epochs" in caplog.text


def test_with_a_validation_the_best_weights_stay(tmp_path, caplog):
    assert trained(tmp_path, validate=True) == [1, 1, 1]
    assert not caplog.text


@pytest.mark.parametrize("always", [True, "true"])
def test_the_last_weights_are_kept_always_where_asked_for(tmp_path, always):
    assert trained(tmp_path, validate=False, always=always) == [1, 2, 2]


def test_a_best_model_that_keeps_no_file_remembers_its_score(tmp_path):
    best = BestModel(tmp_path / "model.pt", nn.Linear(1, 1), keep=False)
    FixedScore(best, [(1, 0.5)]).run()
    assert best.epoch == 1 and not (tmp_path / "model.pt").exists()


# ---- how a step is computed may differ, what it is may not


def test_another_kind_of_step_is_no_other_run(make_trainer, labels, tmp_path):
    """A run of a GPU, whose optimizer is fused, goes on elsewhere."""

    def make(fused, resume, lr=0.01):
        network = nn.Linear(3, 2)
        optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=fused)
        checkpoint = Checkpoint(tmp_path / "run.pt", {"network": network, "optimizer": optimizer}, resume)
        engine = Engine(lambda engine, batch: None)
        engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: network(torch.ones(1, 3)).sum().backward())
        engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: optimizer.step())
        checkpoint.attach(engine)
        return engine, optimizer

    make(True, False)[0].run([0], max_epochs=2)
    engine, optimizer = make(False, True)
    engine.run([0], max_epochs=3)
    assert not optimizer.param_groups[0]["fused"] and optimizer.state_dict()["state"][0]["step"] == 3
    with pytest.raises(ValueError, match=r"optimizer#lr 0.01, got 0.1: resume with the settings"):
        make(False, True, lr=0.1)[0].run([0], max_epochs=3)


def test_another_network_or_accumulation_is_refused(tmp_path):
    def make(resume, dropout=0.0, accumulation=1):
        network = BasicUNet(2, 1, 2, (4,) * 6, dropout=dropout)
        engine = Engine(lambda engine, batch: None)
        engine.accumulation_steps = accumulation
        Checkpoint(tmp_path / "run.pt", {"network": network}, resume).attach(engine)
        return engine

    make(False).run([0], max_epochs=1)
    make(True).run([0], max_epochs=2)
    with pytest.raises(ValueError, match=r"network#dropout 0.0, got 0.2"):
        make(True, dropout=0.2).run([0], max_epochs=3)
    with pytest.raises(ValueError, match="accumulation_steps 1, got 2"):
        make(True, accumulation=2).run([0], max_epochs=3)


@pytest.mark.parametrize("kind", ["last", "best"])
def test_a_good_model_is_not_replaced_by_weights_that_are_not_finite(tmp_path, kind):
    network, path = nn.Linear(3, 2), tmp_path / "model.pt"
    handler = LastModel(path, network, always=True) if kind == "last" else BestModel(path, network)
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch, engine.state.key_metric_name, engine.state.metrics = 1, "score", {"score": 0.5}
    handler(engine)
    good = path.read_bytes()
    nn.init.constant_(network.weight, float("nan"))
    engine.state.metrics = {"score": 0.9}
    with pytest.raises(
        FloatingPointError, match=r"weights must be finite, got others in \['weight'\] .* is kept as it was"
    ):
        handler(engine)
    assert path.read_bytes() == good
