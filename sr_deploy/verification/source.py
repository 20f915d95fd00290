"""A bundle held against the checkpoint that it says it came from: the one thing that lies outside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sr_deploy.bundle import Bundle, Check, utc_now
from sr_deploy.errors import CheckpointError
from sr_deploy.files import sha256_of
from sr_deploy.graph.read import METADATA_PREFIX, read_graph
from sr_deploy.model import Model, open_model
from sr_deploy.run_folder import list_weights
from sr_deploy.verification.audit import compare_tensor

_SOURCE_KEY = f"{METADATA_PREFIX}source_sha256"


def check_source(model: Model, source: Path | str) -> Check:
    """Whether a bundle was made of this checkpoint: its hash is the recorded one, and so is every weight, bit for bit.

    Args:
        model: a bundle, opened.
        source: a checkpoint, or a run, of which the checkpoint with the recorded hash is taken, else the newest.

    Raises:
        InputError: the source is not there, or holds no weights.
    """
    bundle = model.bundle
    assert bundle is not None
    opened = open_model(_choose_checkpoint(Path(source), bundle.manifest.source.sha256))
    differences = [*_compare_weights(model, opened)]
    findings = [*_compare_hashes(bundle, opened, same="" if differences else "; the weights are the same")]
    findings += differences
    recorded = bundle.manifest.reference
    return Check(
        kind="source",
        file=recorded.file,
        sha256=recorded.sha256,
        what=f"the weights against those of {opened.path}, bit for bit, and its hash against the recorded one",
        findings=tuple(findings),
        checked_at=utc_now(),
    )


def _choose_checkpoint(path: Path, sha256: str) -> Path:
    """Of a run the checkpoint with that hash; a run that went on has newer ones."""
    return next((weights for weights in list_weights(path) if sha256_of(weights) == sha256), path)


def _compare_hashes(bundle: Bundle, opened: Model, same: str) -> Iterator[str]:
    recorded = bundle.manifest.source
    weights = opened.weights_path or opened.path
    seen = sha256_of(weights)
    if seen != recorded.sha256:
        yield (
            f"bundle.json says that it came from {recorded.file} with sha256 {recorded.sha256[:12]}..., and {weights} "
            f"has {seen[:12]}...{same}"
        )
    for graph in bundle.manifest.graphs:
        stated = read_graph(bundle.path / graph.file).metadata.get(_SOURCE_KEY)
        if stated not in (None, recorded.sha256):
            yield f"{graph.file} says in its metadata that it came from sha256 {stated[:12]}..."


def _compare_weights(model: Model, opened: Model) -> Iterator[str]:
    if opened.arch is None or model.arch is None or opened.weights_path is None:
        raise CheckpointError(f"{opened.path} holds no weights to hold the bundle against; give a checkpoint or a run")
    if opened.arch != model.arch:
        yield f"is {model.arch.title()}, and {opened.path} holds {opened.arch.title()}"
        return
    due, seen = opened.load_network().state_dict(), model.load_network().state_dict()
    for name, tensor in due.items():
        yield from compare_tensor(f"tensor {name!r}", tensor.numpy(), seen[name].numpy())
