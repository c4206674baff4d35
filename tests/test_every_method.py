"""Every method on 2D multi-label, 2D multi-class and 3D data: it learns from what it says, and a killed run goes on."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from common import methods
from common.batches import Batches
from common.handlers import Checkpoint, Curriculum, CurriculumSteps
from common.label_space import LabelSpace
from common.methods import Method, Step
from common.networks import BasicUNet
from common.views import Chain, CTAugment, CutMix
from common.weights import Confidence, RankSimilarity

KINDS = {
    "2D multi-label": (LabelSpace(["lung", "heart"], "multilabel"), (16, 16)),
    "2D multi-class": (LabelSpace(["lung", "heart"], "multiclass"), (16, 16)),
    "3D": (LabelSpace(["lesion"], "multilabel"), (16, 16, 16)),
}
OPTIONS = {
    "RPG": {"neighbors": 0.5, "reference_size": 8, "query_size": 8},
    "Popcorn": {"step_size": 3, "step_epochs": 1, "neighbors": 2},
    "TransformationConsistency": {"ramp_up": 4},
    "MeanTeacher": {"ramp_up": 4},
    "MLDS": {"ramp_up": 4},
    "U2PL": {"contrast": {"dimensions": 4, "anchors": 8, "negatives": 4, "queue": 30, "enqueued": 5}},
}
OPTIONS |= {name: OPTIONS["RPG"] for name in ("NearestNeighbor", "RPGPlus", "BalancedRPG")}
OPTIONS["ReferenceMatch"] = {"threshold": 0.51, "reference_size": 8, "query_size": 8}
# so low that a network that knows nothing yet is confident somewhere
OPTIONS |= {name: {"threshold": 0.51} for name in ("PseudoLabel", "FixMatch", "UniMatch", "AugSeg")}
OPTIONS["SegMatch"] = {"threshold": 0.3, "discriminator": {"features": (4, 4)}}
NAMES = [name for name in methods.__all__ if name not in ("Method", "Step")]
EPOCHS, ITERATIONS = 3, 2


class Killed(Exception):
    pass


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def make_run(make_trainer, make_batches, tmp_path):
    """``make_run(name, kind, folder, resume, die)``: a trainer of a method, which dies in an iteration."""

    def make(name: str, kind: tuple, folder: str = "run", resume: bool = False, die: int = 0, **changes):
        labels, size = kind
        torch.manual_seed(0)
        method = getattr(methods, name)(labels, **{**OPTIONS.get(name, {}), **changes})
        batches = make_batches(method, size)

        def handlers(network, optimizer, scheduler, loader):
            path = tmp_path / folder
            inferer = lambda image, network: network(image)  # noqa: E731
            curriculum = Curriculum(method, batches, network, inferer, path / "pseudo_labels")
            state = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "method": method}
            state |= {"loader": loader, "curriculum": curriculum}
            return [Checkpoint(path / "checkpoint.pt", state, resume), CurriculumSteps(curriculum)]

        trainer = make_trainer(method, handlers, EPOCHS, ITERATIONS, batches=batches)
        if die:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=die), kill)
        return trainer, method, tmp_path / folder / "checkpoint.pt"

    return make


def kill(engine):
    raise Killed


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def killed_and_whole(make_run, name: str, kind: tuple, view=None) -> list[dict]:
    """What is saved by a run that was never stopped, and by one that was killed within each epoch.

    ``view`` makes the method's view, a new one for each run, where it is not the method's own.
    """

    def made(*args, **options):
        return make_run(name, kind, *args, **options, **({} if view is None else {"view": view()}))

    trainer, method, whole = made("whole")
    batches = trainer.data_loader.batches
    terms = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: terms.append(e.state.output["terms"]))
    trainer.run()
    for values in terms:
        assert set(values) == {"supervised", *method.terms}
        assert all(torch.isfinite(value) for value in values.values())
    for term in method.terms:
        assert any(values[term] != 0 for values in terms), f"{term} is never there"
    assert len(batches.joined) == (5 if method.joining is not None else 0)

    for die in (1, 3, 5):  # within each epoch
        with pytest.raises(Killed):
            made("killed", resume=True, die=die)[0].run()
    trainer, _, killed = made("killed", resume=True)
    trainer.run()
    return [torch.load(path, weights_only=True) for path in (whole, killed)]


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_goes_on_where_it_was_killed(name, kind, make_run):
    states = killed_and_whole(make_run, name, kind)
    assert states[0]["trainer"]["epoch"] == EPOCHS
    assert equal(*states)


VIEWS = {
    "FixMatch": lambda: CTAugment(decay=0.5),
    "UniMatch": lambda: Chain([CTAugment(geometry=False, cutout=0, decay=0.5), CutMix()]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_with_magnitudes_that_are_learnt(name, kind, make_run):
    """CTAugment's bins are drawn by what they have learnt, in a resumed run, too."""
    states = killed_and_whole(make_run, name, kind, VIEWS[name])
    weights = [value for key, value in states[0]["method"].items() if key.endswith(".weights")]
    assert weights and all(len(value[value < 0.8]) > 10 for value in weights)
    assert equal(*states)


# what a method is without its unlabelled images, where that is not a factor of 0
WITHOUT = {"Popcorn": ("Popcorn", {"selection": "none"}), "UncertaintyGuided": ("Supervised", {})}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Supervised"])
def test_unlabelled_images_make_a_difference(name, kind, make_run):
    """The network ends with other weights than without them, all else being the same."""
    trainer, method, _ = make_run(name, kind, name)
    trainer.run()
    baseline, changes = WITHOUT.get(name, (name, {"unsupervised_weight": 0.0}))
    without, made, _ = make_run(baseline, kind, "without", **changes)
    made.loss = without.loss_function = method.loss
    without.run()
    found, expected = (dict(each.network.named_parameters()) for each in (trainer, without))
    assert not equal(found, expected)


HOSTS = ("FixMatch", "UniMatch", "AugSeg", "U2PL", "AEL", "RPG", "RPGPlus", "MeanTeacher", "BCP", "MLDS")


@pytest.mark.parametrize("name", HOSTS)
def test_rank_weighting_of_every_host(name, kind, make_run):
    """It changes what is learnt, and a killed run goes on with the memory that it had."""
    low = {"threshold": 0.51 if kind[0].multilabel else 0.34} if "threshold" in OPTIONS.get(name, {}) else {}

    def run(folder, **settings):
        weight = {"k": 2, "memory": 7, "enqueued": 3, "threshold": 0.34, "reliable": Confidence(0.51)}
        return make_run(name, kind, folder, added_weight=RankSimilarity(**weight), **low, **settings)

    trainer, method, whole = run("whole")
    trainer.run()
    state = method.state_dict()
    added = [value for key, value in state.items() if key.endswith("weights.1.memory.added")]
    assert added and all(each.sum() > 7 for each in added)
    with pytest.raises(Killed):
        run("killed", resume=True, die=3)[0].run()
    trainer, _, killed = run("killed", resume=True)
    trainer.run()
    assert equal(*[torch.load(path, weights_only=True) for path in (whole, killed)])
    without, _, other = make_run(name, kind, "without", **low)
    without.run()
    assert not equal(*[torch.load(path, weights_only=True)["network"] for path in (whole, other)])


def test_a_checkpoint_without_the_memory_is_refused_and_one_of_another_host(make_run):
    kind = KINDS["2D multi-class"]
    make_run("FixMatch", kind)[0].run()
    with pytest.raises(ValueError, match=r"checkpoint\.pt is of a run with .*weight"):
        make_run("FixMatch", kind, resume=True, added_weight=RankSimilarity(k=2))[0].run()
    make_run("FixMatch", kind, "host", added_weight=RankSimilarity(k=2))[0].run()
    for name, k in (("FixMatch", 3), ("UniMatch", 2)):
        with pytest.raises(ValueError, match=r"checkpoint\.pt is of a run with "):
            make_run(name, kind, "host", resume=True, added_weight=RankSimilarity(k=k))[0].run()


@pytest.mark.parametrize("name", NAMES)
def test_who_needs_unlabelled_images_says_so(name, kind, make_store):
    labels, size = kind
    method = getattr(methods, name)(labels, **OPTIONS.get(name, {}))
    settings = {"labels": labels, "method": method, "labeled_batch": 2}
    store = make_store(labels, size=size)
    if not method.learns_from_unlabeled:
        assert "unlabeled" not in Batches(store, None, **settings)[1]
        return
    with pytest.raises(ValueError, match=f"{name} learns from unlabelled images, got none"):
        Batches(store, None, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_features_is_refused_by_those_who_need_them(name):
    labels = KINDS["2D multi-label"][0]
    method: Method = getattr(methods, name)(labels)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Dropout(0.1))
    if name == "Popcorn" or method.needs.features:
        with pytest.raises(ValueError, match="must give its features"):
            method.prepare(network)
    else:
        assert len(method.prepare(network)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RPGPlus", "UniMatch", "Popcorn", "MLDS", "IIC"])
def test_on_the_bundle_s_network_compiled_in_bfloat16_and_channels_last(name, kind, make_batches):
    """The settings for speed work with every method; five stand for all."""
    labels, size = kind
    method = getattr(methods, name)(labels, **OPTIONS.get(name, {}))
    batches = make_batches(method, size)
    dimensions = len(size)
    network = BasicUNet(dimensions, 1, labels.num_outputs, (4, 4, 4, 8, 8, 4))
    network = network.to(memory_format=torch.channels_last if dimensions == 2 else torch.channels_last_3d)
    method.prepare(network)
    compiled = torch.compile(network, backend="eager")
    needs = method.needs
    step = Step(labels, compiled, batches[1], 1, weak_gradients=needs.weak_gradients, levels=needs.levels)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.losses(step)
    assert all(torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
