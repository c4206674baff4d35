"""What all methods share: the terms of a loss, and the training step around them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedTrainer, default_prepare_batch
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from common.curriculum.joining import Joining
from common.draws import generator
from common.label_space import LabelSpace
from common.losses import CrossEntropy, Loss
from common.methods.finite import FiniteTerms
from common.parts import Needs, OwnOptimizer, Part, check_source
from common.ranks import share_gradients
from common.settings import keywords
from common.sources.teacher import Teacher
from common.step import Noted, Step, gives_features
from common.terms import Match, Term
from common.weights import Product, Weight


class Method(nn.Module):
    """A training step: the supervised loss on the labelled images, and the terms that a method adds to it.

    An object of this class is the ``iteration_update`` of MONAI's ``SupervisedTrainer``. A subclass puts the parts of a
    paper together; by configuration alone, this class puts together any others. What it returns is the trainer's
    output: ``loss``, ``terms`` (by name), ``notes`` (what each :class:`~common.terms.Match` taught), ``compared`` (what
    each term compared outputs with), ``judged`` (what a gate said of the unlabelled images, or None) and ``numbers``
    (those of parts, by name), as tensors on the device: nobody waits for it until somebody wants a number.

    Args:
        labels: the label space.
        terms: the terms beside the supervised one, by name; see ``common.terms``.
        joining: which unlabelled images join the training images; None for none. See ``common.curriculum``.
        loss: the supervised loss; cross-entropy where not given. See ``common.losses``.
        unsupervised_loss: loss of the terms that match a pseudo-label, where the method does not say another one;
            cross-entropy where not given. Methods without such terms have no use for it.
        added_weight: multiplies the weight of every pseudo-label's pixels, beside the method's own; see
            ``common.weights``.
        unsupervised_weight: factor of all terms beside the supervised one; the papers have 1.
        ramp_up: number of iterations over which that factor rises from 0 along exp(-5 (1 - t)^2); 0 for none.
        supervised_share: share of the training's iterations, the first ones, in which that factor is 0 and nothing but
            the supervised loss is computed.
        joint: labelled and unlabelled images go through the network in one pass, as the papers have it, and share batch
            norm's statistics. On radiographs of two sources that costs more than any method gains, so that they go
            through it one after the other by default.
        average: decay of an exponential average of the network's weights, which then is what is validated and kept; 0
            for the network itself. In a few hundred iterations on a few images the network changes much from one to the
            next, its average little. See :class:`~common.sources.Teacher`, whose eq. 5 it is.
        seed: seed of all draws.

    Raises:
        ValueError: when a number is negative, a part does not fit the label space or other parts.
        TypeError: for a setting that the method does not have; it names those that it has.
        FloatingPointError: when the loss is not finite; it names the iteration and the batch's files.
    """

    needs_of_method = Needs()

    def __new__(cls, *args: Any, **given: Any) -> Method:
        method = super().__new__(cls)
        if "terms" in given and cls is not Method and "terms" not in inspect.signature(cls.__init__).parameters:
            raise TypeError(f"{cls.__name__} has terms of its own, got others: put them together with Method itself.")
        given = dict(zip(keywords(cls), args, strict=False)) | given
        object.__setattr__(method, "given", given)  # for keywords(), whatever a subclass makes of them
        return method

    def __init__(
        self,
        labels: LabelSpace,
        terms: Mapping[str, Term] | None = None,
        joining: Joining | None = None,
        loss: Loss | None = None,
        unsupervised_loss: Loss | None = None,
        added_weight: Weight | None = None,
        unsupervised_weight: float = 1.0,
        ramp_up: int = 0,
        supervised_share: float = 0.0,
        joint: bool = False,
        average: float = 0.0,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has the settings {', '.join(keywords(type(self)))}, got {', '.join(unknown)}."
            )
        for name, value in (("unsupervised_weight", unsupervised_weight), ("ramp_up", ramp_up), ("seed", seed)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        if not 0 <= supervised_share < 1:
            raise ValueError(f"supervised_share must be in [0, 1), got {supervised_share}.")
        if not 0 <= average < 1:
            raise ValueError(f"average must be in [0, 1), got {average}: 0.98 and 0.99 are usual.")
        of_classes = [f"{term}_{name}" for term in ("supervised", *(terms or {})) for name in labels.classes]
        for name in {"supervised", *of_classes} & set(terms or {}):
            raise ValueError(
                f"a term must not be named {name}, which columns of train.csv are for another one: rename it."
            )
        self.labels, self.loss, self.unsupervised_loss = labels, loss or CrossEntropy(), unsupervised_loss
        self.terms, self.joining = nn.ModuleDict(terms or {}), joining
        for term in self.terms.values():
            if isinstance(term, Match) and term.loss is None:
                term.loss = unsupervised_loss or CrossEntropy()
        if added_weight is not None:
            self.multiply(added_weight)
        self.unsupervised_weight, self.ramp_up, self.joint, self.seed = unsupervised_weight, ramp_up, joint, seed
        self.supervised_share, self.progress = supervised_share, 0.0
        self.average, self.averaged = average, Teacher(average) if average else None
        self.finite, self.prepared, self.checked, self.dropout = FiniteTerms(), False, False, False
        for part in self.parts():
            part.check(labels)

    def multiply(self, weight: Weight) -> None:
        """Multiplies the weight of all pseudo-labels; terms that share theirs share the product."""
        matches, products = [term for term in self.terms.values() if isinstance(term, Match)], {}
        if not matches:
            raise ValueError(
                f"added_weight needs pseudo-labels that are matched in each step, got {type(self).__name__}, which has "
                f"none: leave it out (null in a file, '$None' on the command line), or take a method such as FixMatch."
            )
        if not isinstance(weight, Weight):
            raise ValueError(
                f"added_weight must be one of common.weights or None, got {weight!r}: for None write '$None' on the "
                f"command line, and null in a file."
            )
        for term in matches:
            check_source(weight, term.source)
            term.weight = products.setdefault(id(term.weight), Product([term.weight, weight]))

    def settings(self) -> dict[str, Any]:
        """What the method was made with, its parts among it, for comparing two runs."""
        return {name: getattr(self, name) for name in keywords(type(self)) if hasattr(self, name)}

    def keywords(self) -> dict[str, Any]:
        """The method's settings that are numbers and words, for the description of a run."""
        values = {name: parameter.default for name, parameter in keywords(type(self)).items()} | self.given
        return {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}

    def parts(self) -> Iterator[Part]:
        """All parts of the method, the parts of parts among them."""
        return (module for module in self.modules() if isinstance(module, Part))

    @property
    def needs(self) -> Needs:
        """What the method asks of each batch and of the network."""
        inside = (part.needs for term in self.terms.values() for part in term.modules() if isinstance(part, Part))
        joining = Needs() if self.joining is None else self.joining.needs
        return reduce(or_, inside, self.needs_of_method | joining)

    @property
    def learns_from_unlabeled(self) -> bool:
        """Whether there is anything in unlabelled images for this method."""
        return self.needs.unlabeled > 0 or self.joining is not None

    # ---- before the training

    def prepare(self, network: nn.Module) -> list[nn.Parameter]:
        """What the main optimizer changes: the network's parameters, and those of parts that have some of their own.

        Raises:
            ValueError: when a part cannot work with the network.
        """
        if self.needs.features and not gives_features(network):
            raise ValueError(
                f"the network must give its features, which {type(self).__name__} learns from, got a "
                f"{type(network).__name__}: use common.networks.BasicUNet."
            )
        if not self.prepared:
            for part in list(self.parts()):
                part.prepare(network, self.labels)
        self.prepared = True
        return [*network.parameters(), *self.own_parameters()]

    def kept(self, network: nn.Module) -> nn.Module:
        """What is validated and kept of a training: the network, or the average of its weights."""
        if self.averaged is None:
            return network
        self.prepare(network)
        return self.averaged.network

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters of the parts, but for those that have an optimizer of their own or are not trained."""
        others = {p for part in self.modules() if isinstance(part, OwnOptimizer) for p in part.parameters()}
        return [parameter for parameter in self.parameters() if parameter.requires_grad and parameter not in others]

    # ---- the loss

    def losses(self, step: Step) -> dict[str, Tensor]:
        """All terms of the loss by name, scalars with gradients, each with its factor."""
        supervised = self.supervised(step)
        if step.progress < self.supervised_share:
            return {"supervised": supervised} | {name: supervised.new_zeros(()) for name in self.terms}
        factor = self.factor(step)
        return {"supervised": supervised} | {name: factor * term for name, term in self.others(step).items()}

    def factor(self, step: Step) -> float:
        """The factor of all terms beside the supervised one, whose rise begins when the supervised share is over."""
        alone = self.supervised_share * (step.iteration - 1) / step.progress if step.progress else 0
        return self.unsupervised_weight * rise(step.iteration - alone, self.ramp_up)

    def supervised(self, step: Step) -> Tensor:
        """The loss on the labelled images.

        It comes first: the first pass casts the weights to half precision for all passes of a step, and must do so with
        gradients.
        """
        labeled = step.labeled
        outputs = step.see(labeled["image"]).outputs
        return step.compare(self.loss, outputs, labeled["label"], labeled.get("weight"))

    def others(self, step: Step) -> dict[str, Tensor]:
        """The terms beside the supervised one, each with its own factor."""
        found = {}
        for name, term in self.terms.items():
            step.noted, step.term = None, name
            found[name] = term.factor * term(step)
            if step.noted is not None:
                step.notes[name] = step.noted
        return found

    @torch.no_grad()
    def explain(self, network: nn.Module, batch: dict[str, dict[str, Any]]) -> Noted | None:
        """Pseudo-label and weight that a batch's unlabelled images would get; None for a method without any."""
        return self.explained(network, batch).noted

    @torch.no_grad()
    def explained(self, network: nn.Module, batch: dict[str, dict[str, Any]]) -> Step:
        """A step in which a batch's unlabelled images were noted, and judged where there is a gate."""
        matches = [term for term in self.terms.values() if isinstance(term, Match)]
        step = Step(self.labels, network, batch, seed=self.seed, progress=self.progress)
        if matches:
            step.note(*matches[0].taught(step))
        return step

    # ---- the step

    def forward(self, engine: SupervisedTrainer, batch: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """One iteration of MONAI's trainer, in its order and with its options."""
        engine.state.output = None  # what the step before compared is read by now, and needs memory
        if not self.checked:
            self.check_trainer(engine)
            check_dimensions(engine.network, batch["labeled"]["image"])
        if self.dropout:
            torch.manual_seed(int(self.draw(engine).integers(2**63)))
        if engine.prepare_batch is not default_prepare_batch:
            batch = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        step = self.step(engine, batch)
        accumulated = getattr(engine, "accumulation_steps", 1)
        place = (engine.state.iteration - 1) % engine.state.epoch_length
        last = (place + 1) % accumulated == 0 or place + 1 == engine.state.epoch_length
        engine.network.train()
        if place % accumulated == 0:
            engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with torch.autocast(torch.device(engine.state.device).type, enabled=engine.amp, **engine.amp_kwargs):
            terms = self.losses(step)
            loss = sum(terms.values())
        engine.state.output = {
            "loss": loss.detach(),
            "terms": {name: term.detach() for name, term in terms.items()},
            "notes": step.notes,
            "compared": step.compared,
            "judged": step.judged,
            "numbers": step.numbers,
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self.finite.add(engine.state.iteration, engine.state.output["terms"] | step.numbers, batch)
        if place + 1 == engine.state.epoch_length:
            self.finite.look()  # before anything is written
        scaler = engine.scaler if engine.amp_kwargs.get("dtype") is not torch.bfloat16 else None
        loss = loss / accumulated if accumulated > 1 else loss
        (loss if scaler is None else scaler.scale(loss)).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if last:
            share_gradients(self.own_parameters())
            if scaler is None:
                engine.optimizer.step()
            else:
                scaler.step(engine.optimizer)
                scaler.update()
            self.after_step(step)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        if not isinstance(engine.state.output, dict):
            raise ValueError("decollate of the trainer must be false: its output is of a batch, not of images.")
        return engine.state.output

    def draw(self, engine: SupervisedTrainer) -> np.random.Generator:
        """Where the network's dropout has its random numbers from, the same ones in a resumed run."""
        return generator(self.seed, engine.state.iteration, "dropout")

    def step(self, engine: SupervisedTrainer, batch: dict[str, dict[str, Any]]) -> Step:
        self.progress = (engine.state.iteration - 1) / (engine.state.max_epochs * engine.state.epoch_length)
        return Step(
            self.labels,
            engine.network,
            batch,
            iteration=engine.state.iteration,
            seed=self.seed,
            joint=self.joint and self.progress >= self.supervised_share,
            weak_gradients=self.needs.weak_gradients,
            progress=self.progress,
            levels=self.needs.levels,
        )

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Lets the parts follow: a teacher, a queue, a discriminator."""
        for part in self.parts():
            part.after_step(step)

    def check_trainer(self, engine: SupervisedTrainer) -> None:
        """Refuses what would be ignored without a word, before the first step.

        Raises:
            ValueError: for a loss function beside the method's own; for an optimizer that leaves out parameters of the
                parts.
        """
        if not self.prepared:  # the optimizer was made without asking the method
            self.prepare(engine.network)
        self.checked = True
        for part in self.parts():
            part.start(engine.network)
        self.dropout = any(isinstance(part, _DropoutNd) and part.p > 0 for part in engine.network.modules())
        if engine.loss_function is not self.loss:
            raise ValueError(
                f"loss_function of the trainer must be the method's, $@method.loss, got "
                f"{type(engine.loss_function).__name__}: give the method another loss, and its terms theirs."
            )
        optimized = {id(parameter) for group in engine.optimizer.param_groups for parameter in group["params"]}
        mine = {id(parameter) for parameter in self.own_parameters()}
        left_out = [name for name, p in self.named_parameters() if id(p) in mine - optimized]
        if left_out:
            raise ValueError(
                f"the optimizer must have the parameters of {type(self).__name__}'s parts, got none of "
                f"{', '.join(left_out[:3])}: set optimizer#params to $@method.prepare(@network)."
            )


def check_dimensions(network: nn.Module, image: Tensor) -> None:
    """Refuses images of other dimensions than the network's.

    Raises:
        ValueError: saying how many each has.
    """
    convolutions = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))]
    expected = {nn.Conv2d: 2, nn.Conv3d: 3}.get(type(convolutions[0])) if convolutions else None
    if expected not in (None, image.ndim - 2):
        raise ValueError(
            f"images must have the network's {expected} spatial dimensions, got {image.ndim - 2}: set spatial_dims of "
            "the network, or patch_size, where 1 as the last side means slices."
        )


def rise(iteration: float, length: int) -> float:
    """The ramp-up exp(-5 (1 - t)^2) with t = iteration / length, 1 from ``length`` on (Laine and Aila 2017)."""
    if length == 0 or iteration >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - iteration / length) ** 2)
