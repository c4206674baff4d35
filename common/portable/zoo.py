"""What MONAI's model zoo asks of a bundle, as far as it needs no data: the checks of its integration tests, offline."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jsonschema.validators import validator_for
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.data import load_net_with_metadata

from common.errors import cause
from common.files import read_json
from common.handlers.checkpoint import load_checkpoint

SCHEMA = Path(__file__).with_name("metadata_schema.json")
METADATA, INFERENCE, WEIGHTS = "configs/metadata.json", "configs/inference.json", "models/model.pt"
LARGE = 25_000_000  # bytes; a larger file goes to the zoo by an address, in large_files.yml


def zoo_problems(root: Path) -> Iterator[str]:
    """What the zoo would refuse of a bundle's folder: one sentence for each.

    The expressions of ``configs/inference.json`` are evaluated, its network is made and run on noise, and
    ``models/model.ts`` is written, as TorchScript.
    """
    with quiet():
        for check in (metadata, network, properties, torchscript):
            try:
                yield from check(root)
            except Exception as error:  # MONAI, torch and the bundle's own parts raise whatever they like
                yield f"{check.__name__}: {' '.join(cause(error).split())[:500]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without MONAI's summaries of what it is called with, and its word that TorchScript is deprecated."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(root: Path) -> Iterator[str]:
    content = read_json(root / METADATA, "write it as the other bundles do")
    schema = read_json(SCHEMA, "get the repository again")
    for error in validator_for(schema)(schema).iter_errors(content):  # MONAI Label's jsonschema knows no newer draft
        yield f"{METADATA}: {'#'.join(map(str, error.absolute_path)) or 'it'} {told(error)}"
    version, changelog = content.get("version"), content.get("changelog")
    if isinstance(changelog, dict) and version not in changelog:
        yield f"{METADATA}: version must be a key of changelog, got {version}: say there what is new."


def told(error) -> str:
    """What the schema asks."""
    if error.validator == "required":
        return f"must have the keys {', '.join(error.validator_value)}: {error.message}."
    return f"must be as the schema says: {error.message}."


def network(root: Path) -> Iterator[str]:
    """Channels and types of what goes into the network and comes out are those that the metadata state."""
    files = {"meta_file": str(root / METADATA), "config_file": str(root / INFERENCE)}
    verify_net_in_out(net_id="network_def", device="cpu", **files)
    yield from ()


def properties(root: Path) -> Iterator[str]:
    """What other programs ask of an inference by name: MONAI Label, MONAI Deploy."""
    workflow = ConfigWorkflow(
        config_file=str(root / INFERENCE),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(root),
        dataset_dir=str(root / "none"),
        output_dir=str(root / "none"),
    )
    workflow.initialize()
    for name in workflow.check_properties() or ():
        yield f"{INFERENCE} must have {name} under MONAI's name for it, got none: call it so."


def torchscript(root: Path) -> Iterator[str]:
    """The weights are those of the network, which can be exported and read again."""
    file = root / "models" / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(root / WEIGHTS),
        meta_file=str(root / METADATA),
        config_file=str(root / INFERENCE),
        bundle_root=str(root),
    )
    exported, _, _ = load_net_with_metadata(str(file))
    given, found = load_checkpoint(root / WEIGHTS), exported.state_dict()
    other = sorted(name for name in {**given, **found} if not equal(given.get(name), found.get(name)))
    if other:
        yield f"{WEIGHTS} must hold the weights of network_def, got others of {', '.join(other[:3])}: train again."


def equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
