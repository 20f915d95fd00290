"""Tensors in files: safetensors, and what `torch.save` writes, inside any wrapper. No code of a file is run."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sr_deploy.errors import CheckpointError
from sr_deploy.files import replacing_file, require_file

if TYPE_CHECKING:
    from torch import Tensor

OUR_FORMAT = "sr-deploy"
"""What the metadata of our own files say under `format`."""
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_PREFIXES = ("module.", "netG.")
_MAX_NESTING = 8
KEYS_SHOWN = 5
"""Keys of a file that an error shows."""
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


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Put the file's name before errors of its content, and make errors of reading it our own.

    Raises:
        CheckpointError: the block raised one, or an OSError.
    """
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, on any device, as safetensors, atomically. Equal content gives equal bytes.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save

    # contiguous() and clone() also part tensors that share memory, which the format refuses.
    plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    with replacing_file(path) as temporary:
        # Not save_file: its own error type would hide that the disk is full.
        temporary.write_bytes(_sort_metadata(save(plain, dict(metadata))))


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Read the tensors of any file of weights, by its own keys, with prefixes such as `module.` taken off.

    Args:
        path: safetensors, or what `torch.save` writes.
        what: its role, for errors, as in `VGG19's weights`.

    Raises:
        InputError: the file does not exist, or is a folder.
        CheckpointError: unsafe, damaged, or without tensors.
    """
    require_file(path, what)
    with naming_file(path):
        return read_tensor_file(path, what)[0]


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], title: str) -> None:
    """Compare tensors with those of a network, one by one.

    Args:
        state: what a file has, under the network's keys.
        expected: the network's state dict; it may lie on the meta device.
        title: the network, for errors.

    Raises:
        CheckpointError: a tensor is missing, superfluous or of another shape; the first of them is named.
    """
    what = f"for {title}"
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


def read_tensor_file(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the state dict that the file holds, by its own keys, and its metadata.

    Args:
        path: a file that exists.
        what: what is looked for, for errors, as in `the generator's weights`.

    Raises:
        CheckpointError: unsafe, damaged, or without tensors; wrap it in `naming_file`.
    """
    with path.open("rb") as stream:
        head = stream.read(16)
    size = path.stat().st_size
    if not head:
        raise CheckpointError("the file is empty; copy or download it again")
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _unwrap(_load_pickle(path), what), {}
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


def _unwrap(document: object, what: str) -> dict[str, Tensor]:
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
        keys = ", ".join(repr(key) for key in list(inner)[:KEYS_SHOWN]) or "nothing"
        kind = f"training state without {what}" if _TRAINING_STATE_KEYS & set(inner) else "no weights"
        raise CheckpointError(f"{kind}: it holds {keys}; give the file with {what}")
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


def to_fp32(key: str, tensor: Tensor) -> Tensor:
    """A plain fp32 tensor; whole numbers (the counters of a batch normalisation) stay what they are.

    Raises:
        CheckpointError: no plain real numbers, or NaN or infinity among them.
    """
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
