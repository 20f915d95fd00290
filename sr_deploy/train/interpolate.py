"""Network interpolation: a generator between two others of one architecture.

Wang et al.: ESRGAN, 2018, section 3.4: theta = (1 - alpha) * theta_PSNR + alpha * theta_GAN. Between a network trained
on pixels and the GAN trained from it this trades faithfulness for texture without training anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.model import Model, open_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sr_deploy.arch.spec import ArchSpec

METADATA_KEY = "interpolation"
"""Where the written file says what it was made of, as JSON."""


@dataclass(frozen=True)
class Interpolated:
    """What `interpolate_models` wrote."""

    path: Path
    """Safetensors file, in the layout of sr-deploy."""
    sha256: str
    """Of `path`, in hexadecimal."""
    arch: ArchSpec
    """The network of all three."""
    alpha: float
    """Share of the second network, 0 to 1."""
    sources: tuple[Path, Path]
    """The files of weights that were blended."""
    source_sha256: tuple[str, str]
    """Of `sources`, in their order."""


def interpolate_models(
    a: Model | Path | str, b: Model | Path | str, *, alpha: float, out: Path | str | None = None
) -> Interpolated:
    """Blend two generators and write the result: (1 - alpha) * a + alpha * b.

    Statistics of batch normalizations are blended like weights; integers (their counters) are those of `b`. The
    file is safetensors that every command takes; its metadata name both sources by hash, and alpha.

    Args:
        a: a checkpoint in any known layout, a bundle or a run (a path, or opened).
        b: another one of the same network.
        alpha: share of `b`, from 0 (a itself) to 1 (b itself).
        out: file to write; takes the place of what was there. None: `A+B-alphaX.safetensors` in the current folder.

    Raises:
        InputError: alpha outside 0..1, an `out` that is no .safetensors or is one of the sources, or no such model.
        CheckpointError: no weights in one of them (graphs, engines), or different networks.
        OutputError: it cannot be written.
    """
    from sr_deploy.arch.weights import read_checkpoint, save_generator

    if not 0 <= alpha <= 1:  # refuses NaN too
        raise InputError(f"alpha must lie between 0 (the first network) and 1 (the second), not {alpha}")
    first, second = (model if isinstance(model, Model) else open_model(model) for model in (a, b))
    sources = _weights_of(first), _weights_of(second)
    if out is None:
        out = f"{_short_name(first)}+{_short_name(second)}-alpha{alpha:g}.safetensors"
    path = _check_target(Path(out), sources)
    checkpoints = tuple(read_checkpoint(source) for source in sources)
    if checkpoints[0].spec != checkpoints[1].spec:
        raise CheckpointError(
            f"only networks of one architecture can be blended: {first.path} is {checkpoints[0].spec.title()}, "
            f"{second.path} is {checkpoints[1].spec.title()}; give two of the same"
        )
    hashes = sha256_of(sources[0]), sha256_of(sources[1])
    record = {
        "alpha": alpha,
        "sources": [{"file": file.name, "sha256": digest} for file, digest in zip(sources, hashes, strict=True)],
    }
    state = blend_states(checkpoints[0].state, checkpoints[1].state, alpha)
    save_generator(path, state, checkpoints[0].spec, {METADATA_KEY: json.dumps(record)})
    return Interpolated(path, sha256_of(path), checkpoints[0].spec, alpha, sources, hashes)


def blend_states(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * a + alpha * b for tensors of floating point; integers are those of `b`.

    Args:
        a: a state dict.
        b: another one with the same keys and shapes.
        alpha: from 0 to 1.
    """
    return {
        key: (1 - alpha) * tensor + alpha * b[key] if tensor.is_floating_point() else b[key]
        for key, tensor in a.items()
    }


def _weights_of(model: Model) -> Path:
    if model.weights_path is None:
        raise CheckpointError(
            f"{model.path} is {'an engine' if model.kind == 'engine' else 'an ONNX graph'} and has no PyTorch weights; "
            "give a checkpoint, a bundle or a run"
        )
    return model.weights_path


def _check_target(path: Path, sources: tuple[Path, Path]) -> Path:
    """Refuse, before any work is done, what cannot end well."""
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"cannot write {path}: weights are written as .safetensors; give such a name")
    if any(path.exists() and path.samefile(source) for source in sources):
        raise InputError(f"{path} is one of the two networks to blend; give another name for the result")
    return path


def _short_name(model: Model) -> str:
    """Of a run or bundle its folder's name, of a file its name without suffix."""
    if model.path.is_file():
        return model.path.stem
    return model.path.resolve().name
