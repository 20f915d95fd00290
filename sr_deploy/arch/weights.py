"""Checkpoints on disk: ours (safetensors) and published ones in every known layout. No code of a file is run."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from sr_deploy.arch.registry import Architecture, Layout, Shapes, architecture_names, build_network, get_architecture
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.files import replacing_file, require_file

if TYPE_CHECKING:
    from torch import Tensor

OUR_FORMAT = "sr-deploy"
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_PREFIXES = ("module.", "netG.")
_MAX_NESTING = 8
_KEYS_SHOWN = 5
_DISCRIMINATOR_KEYS = re.compile(r"(conv0_0|bn0_1|linear[12]|conv\d)\.(weight_orig|weight|weight_u)$|classifier\.")
# What torch's reader was seen to raise on files with bytes changed or cut off.
_DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)
_TRAINING_STATE_KEYS = frozenset({"optimizer", "optimizers", "schedulers", "optimizer_state_dict", "param_groups"})


@dataclass(frozen=True)
class Checkpoint:
    """A generator's weights, recognised and checked."""

    spec: ArchSpec
    """What network they are for."""
    layout: str
    """How the file named them, as `sr-deploy info` prints it; `sr-deploy` for files of ours."""
    state: dict[str, Tensor]
    """The tensors under our keys, in fp32 (counters as they are), on the CPU."""


def save_generator(
    path: Path, state: Mapping[str, Tensor], spec: ArchSpec, extra: Mapping[str, str] | None = None
) -> None:
    """Write weights as safetensors, atomically, with `spec` in the metadata.

    Args:
        path: the file.
        state: state dict of `build_network(spec)`, on any device.
        spec: the network.
        extra: more metadata, text by name.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save

    metadata = {**(extra or {}), "format": OUR_FORMAT, "arch": spec.model_dump_json()}
    # contiguous() and clone() also part tensors that share memory, which the format refuses.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    with replacing_file(path) as temporary:
        # Not save_file: its own error type would hide that the disk is full.
        temporary.write_bytes(_sort_metadata(save(tensors, metadata)))


def _sort_metadata(content: bytes) -> bytes:
    """The same safetensors file with its metadata in alphabetical order.

    The library writes them in an order that changes from process to process; equal weights shall be equal files.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the generator in a file of weights.

    Args:
        path: safetensors, or what `torch.save` writes, of ours or in a published layout.

    Raises:
        InputError: the file does not exist, or is a folder.
        CheckpointError: unsafe, damaged, without a generator, of an unknown layout, or contradicting itself.
    """
    require_file(path, "a checkpoint")
    try:
        tensors, metadata = _read_tensors(path)
        if metadata.get("format") == OUR_FORMAT:
            spec, layout, state = _read_ours(tensors, metadata)
        else:
            spec, layout, state = _recognise(tensors)
        _check_shapes(spec, state)
        return Checkpoint(spec, layout, {key: _to_fp32(key, tensor) for key, tensor in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the state dict that the file holds, by its own keys, and its metadata."""
    with path.open("rb") as stream:
        head = stream.read(16)
    size = path.stat().st_size
    if not head:
        raise CheckpointError("the file is empty; copy or download it again")
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _unwrap(_load_pickle(path)), {}
    raise CheckpointError(
        f"no checkpoint: its {size} bytes start with {head[:12]!r}; give a .safetensors file, or one that torch.save "
        "wrote (.pth, .pt)"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return _strip_prefixes(tensors), dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"damaged or truncated safetensors file ({error}); copy or download it again") from error


def _load_pickle(path: Path) -> object:
    """Load with torch's restricted unpickler, which builds tensors and plain containers and calls nothing else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they are about is an error here, or harmless
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(_describe_refusal(str(error))) from error
    except _DAMAGE as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                "a TorchScript archive, which holds code; save the network's state_dict() with torch.save and give that"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise CheckpointError(f"damaged or truncated ({reason[:120]}); copy or download it again") from error


def _describe_refusal(message: str) -> str:
    """What torch's unpickler met, without its advice to switch the protection off."""
    for pattern in (r"GLOBAL ([\w.]+)", r"[Uu]nsupported (?:global|class) ([\w.]+)", r"type (\S+)"):
        match = re.search(pattern, message)
        if match:
            what = match.group(1).rstrip(".")
            return (
                f"refused: the pickle asks for {what!r}, and only tensors and plain containers are loaded (anything "
                "else could run code); save the network's state_dict() alone and give that"
            )
    reason = message.partition("WeightsUnpickler error: ")[2] or message
    reason = " ".join(reason.partition("Check the documentation")[0].split())[:120] or "not readable"
    return f"damaged, or no file of torch.save ({reason}); only tensors and plain containers are loaded"


def _unwrap(document: object) -> dict[str, Tensor]:
    """Find the state dict inside the wrappers that trainers put around it."""
    inner = document
    for _ in range(_MAX_NESTING):
        if isinstance(inner, torch.Tensor):
            raise CheckpointError(f"holds one bare tensor of shape {tuple(inner.shape)}, no state dict")
        if not isinstance(inner, Mapping):
            raise CheckpointError(f"holds a {type(inner).__name__}, no state dict; save the network's state_dict()")
        wrapped = next((inner[key] for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None)
        if wrapped is None and len(inner) == 1 and isinstance(next(iter(inner.values())), Mapping):
            wrapped = next(iter(inner.values()))
        if wrapped is None:
            break
        inner = wrapped
    assert isinstance(inner, Mapping)
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(repr(key) for key in list(inner)[:_KEYS_SHOWN]) or "nothing"
        kind = "training state without a generator" if _TRAINING_STATE_KEYS & set(inner) else "no weights"
        raise CheckpointError(f"{kind}: it holds {keys}; give the file with the generator's weights")
    return _strip_prefixes(tensors)


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if tensors and all(key.startswith(prefix) for key in tensors):
                tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
                stripped = True
    return tensors


def _read_ours(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[ArchSpec, str, dict[str, Tensor]]:
    """What the metadata of our own file says; that the shapes agree is checked by the caller."""
    if "arch" not in metadata:
        role = metadata.get("role", "something else")
        raise CheckpointError(f"a file of sr-deploy that holds no generator but {role}; give generator.safetensors")
    try:
        return ArchSpec.model_validate_json(metadata["arch"]), OUR_FORMAT, tensors
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"its metadata describe no network known here ({where}: {first['msg']})") from error


def _recognise(tensors: dict[str, Tensor]) -> tuple[ArchSpec, str, dict[str, Tensor]]:
    """Find the layout that the keys are in, and what network the shapes make."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    architecture, layout = _find_layout(shapes)
    try:
        names = layout.rename(shapes)
        spec = architecture.infer({names[key]: shape for key, shape in shapes.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"looks like {layout.signature}, but its shapes make no network: {first['loc'][0]} would be "
            f"{first.get('input')!r} ({first['msg']})"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"looks like {layout.signature}, but {error}") from error
    return spec, layout.name, {names[key]: tensor for key, tensor in tensors.items()}


def _find_layout(shapes: Shapes) -> tuple[Architecture, Layout]:
    known = [(arch, layout) for arch in map(get_architecture, architecture_names()) for layout in arch.layouts]
    for architecture, layout in known:
        if layout.matches(shapes):
            return architecture, layout
    first = ", ".join(list(shapes)[:_KEYS_SHOWN])
    if _is_discriminator(shapes):
        raise CheckpointError(f"looks like a discriminator (first keys: {first}); give the generator's weights")
    signatures = "; ".join(layout.signature for _, layout in known)
    raise CheckpointError(f"unknown layout, first keys: {first}; known layouts: {signatures}")


def _is_discriminator(shapes: Shapes) -> bool:
    return any(key.endswith("weight_orig") for key in shapes) or (
        sum(bool(_DISCRIMINATOR_KEYS.match(key)) for key in shapes) > len(shapes) // 4
    )


def _check_shapes(spec: ArchSpec, state: Mapping[str, Tensor]) -> None:
    """Compare with the network that `spec` makes, tensor by tensor.

    Raises:
        CheckpointError: a tensor is missing, superfluous or of another shape; the first of them is named.
    """
    try:
        with torch.device("meta"):
            expected = build_network(spec).state_dict()
    except InputError as error:
        raise CheckpointError(str(error)) from error
    what = f"for {spec.title()}"
    for key, tensor in expected.items():
        if key not in state:
            raise CheckpointError(f"tensor {key!r} is missing {what}, which has it with shape {tuple(tensor.shape)}")
        if state[key].shape != tensor.shape:
            raise CheckpointError(
                f"tensor {key!r} has shape {tuple(state[key].shape)}; {what} it must have {tuple(tensor.shape)}"
            )
    superfluous = [key for key in state if key not in expected]
    if superfluous:
        raise CheckpointError(f"tensor {superfluous[0]!r} has no place {what} ({len(superfluous)} such tensors)")


def _to_fp32(key: str, tensor: Tensor) -> Tensor:
    """A plain fp32 tensor; whole numbers (the counters of a batch normalisation) stay what they are."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(f"tensor {key!r} is {tensor.dtype} in {tensor.layout}; plain real numbers are needed")
    if not tensor.is_floating_point():
        if not key.endswith("num_batches_tracked"):
            raise CheckpointError(f"tensor {key!r} holds {tensor.dtype}; floating-point weights are needed")
        return tensor
    plain = tensor.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise CheckpointError(f"tensor {key!r} holds NaN or infinity: the training that wrote it had diverged")
    return plain
