"""Tensors in files: safetensors, and what `torch.save` writes, inside any wrapper. No code of a file is run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from sr_deploy.arch.pickles import Opaque
from sr_deploy.arch.safetensors_files import read_safetensors
from sr_deploy.arch.stored import MAX_TENSORS, StoredTensor, load_tensors, require_sizes
from sr_deploy.arch.torch_files import read_torch_file
from sr_deploy.arch.wrappers import MAX_NESTING, find_generator, flatten
from sr_deploy.errors import CheckpointError
from sr_deploy.files import replacing_file, require_file
from sr_deploy.legible import shorten, show_value
from sr_deploy.untrusted import open_regular

if TYPE_CHECKING:
    from torch import Tensor

    from sr_deploy.arch.keys import Shapes

OUR_FORMAT = "sr-deploy"
"""What the metadata of our own files say under `format`."""
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_PREFIXES = ("module.", "netG.")
_MAX_KEY = 1024
_KEY_SHOWN = 80
KEYS_SHOWN = 5
"""Keys of a file that an error shows."""
_TRAINING_STATE_KEYS = frozenset({"optimizer", "optimizers", "schedulers", "optimizer_state_dict", "param_groups"})


@dataclass(frozen=True)
class TensorFile:
    """A file of weights that is open: what its tensors are is known, the numbers are read when they are asked for."""

    tensors: Mapping[str, StoredTensor]
    """Those of its state dict, by its own keys, with prefixes such as `module.` taken off."""
    metadata: Mapping[str, str]
    """Of a safetensors file; empty for others."""
    stream: BinaryIO
    note: str | None = None
    """Which of several networks of the file these are, in a line; None: there is one."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}

    def load(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Read tensors as plain fp32; integers (the counters of a batch normalization) stay what they are.

        Args:
            names: new names by the file's keys; others are not read.

        Raises:
            CheckpointError: no plain real numbers, NaN or infinity among them, damaged, or two tensors for one name.
        """
        found = {name: self.tensors[key] for key, name in names.items()}
        if len(found) < len(names):
            raise CheckpointError(f"two of its {len(names)} tensors mean the same one; save the state_dict() anew")
        require_sizes(found.values())
        return {key: to_fp32(key, tensor) for key, tensor in load_tensors(self.stream, found).items()}

    def load_published(self, expected: Shapes, title: str, published: str) -> dict[str, Tensor]:
        """Read the tensors of a network in a published file, under their keys; others are left aside.

        Args:
            expected: what the network has.
            title: the network, for errors.
            published: the file that has it, for errors.

        Raises:
            CheckpointError: as `load`, or a tensor is missing or of another shape; the first of them is named.
        """
        shapes = self.shapes
        try:
            check_shapes({key: shapes[key] for key in expected if key in shapes}, expected, title)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; give {published} (this file begins with {list_keys(shapes)})") from error
        return self.load({key: key for key in expected})


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
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into the memory that is free; use a larger machine") from error


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


@contextlib.contextmanager
def open_tensors(path: Path, what: str, fits: Callable[[Shapes, bool], bool] | None = None) -> Iterator[TensorFile]:
    """Open any file of weights; errors of the block that speak of its content get its name.

    Args:
        path: safetensors, or what `torch.save` writes, in any wrapper.
        what: what is looked for, for errors, as in `VGG19's weights`.
        fits: where several networks may be in the file: which one is looked for (`wrappers.find_generator`).

    Raises:
        InputError: the file does not exist, or is a folder.
        CheckpointError: unsafe, damaged, or without tensors.
    """
    require_file(path, what)
    with naming_file(path), open_regular(path) as stream:
        yield _read_tensor_file(stream, what, fits)


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a state dict."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def check_shapes(state: Shapes, expected: Shapes, title: str) -> None:
    """Compare tensors with those of a network, one by one.

    Args:
        state: what a file has, under the network's keys.
        expected: what the network has.
        title: the network, for errors.

    Raises:
        CheckpointError: a tensor is missing, superfluous or of another shape; the first of them is named.
    """
    what = f"for {title}"
    for key, shape in expected.items():
        if key not in state:
            raise CheckpointError(f"tensor {key!r} is missing {what}, which has it with shape {shape}")
        if state[key] != shape:
            raise CheckpointError(f"tensor {key!r} has shape {state[key]}; {what} it must have {shape}")
    superfluous = [key for key in state if key not in expected]
    if superfluous:
        raise CheckpointError(
            f"tensor {show_value(superfluous[0])} has no place {what} ({len(superfluous)} such tensors)"
        )


def list_keys(keys: Iterable[str], count: int = KEYS_SHOWN) -> str:
    """The first keys of a file, for a message."""
    return ", ".join(shorten(key, _KEY_SHOWN) for key in itertools.islice(keys, count)) or "nothing"


def _read_tensor_file(stream: BinaryIO, what: str, fits: Callable[[Shapes, bool], bool] | None) -> TensorFile:
    head = stream.read(16)
    size = stream.seek(0, os.SEEK_END)
    if not head:
        raise CheckpointError("the file is empty; copy or download it again")
    document: object
    tensors: Mapping[str, StoredTensor] | None = None
    metadata: Mapping[str, str] = {}
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        tensors, metadata = read_safetensors(stream)
        document = tensors
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        document = read_torch_file(stream)
    else:
        raise CheckpointError(
            f"no checkpoint: its {size} bytes start with {head[:12]!r}; give a .safetensors file, or one that "
            "torch.save wrote (.pth, .pt)"
        )
    found = None
    if fits is not None and metadata.get("format") != OUR_FORMAT:
        found = find_generator(flatten(document), fits)
    if found is not None:
        tensors = found.tensors
    elif tensors is None:
        tensors = _unwrap(document, what)
    longest = max(map(len, tensors), default=0)
    if len(tensors) > MAX_TENSORS or longest > _MAX_KEY:
        raise CheckpointError(
            f"refused: {len(tensors)} tensors, with keys of up to {longest} characters; a network has at most "
            f"{MAX_TENSORS}, and {_MAX_KEY} characters"
        )
    if found is not None:
        return TensorFile(tensors, metadata, stream, found.note)
    return TensorFile(_strip_prefixes(dict(tensors)), metadata, stream)


def _unwrap(document: object, what: str) -> dict[str, StoredTensor]:
    """Find the state dict inside the wrappers that trainers put around it."""
    inner = document
    for _ in range(MAX_NESTING):
        if isinstance(inner, StoredTensor):
            raise CheckpointError(f"holds one bare tensor of shape {inner.shape}, no state dict")
        if not isinstance(inner, dict):
            kind = inner.what if isinstance(inner, Opaque) else f"a {type(inner).__name__}"
            raise CheckpointError(f"holds {kind}, no state dict; save the network's state_dict()")
        wrapped = next((inner[key] for key in _WRAPPERS if isinstance(inner.get(key), dict)), None)
        if wrapped is None and len(inner) == 1 and isinstance(next(iter(inner.values())), dict):
            wrapped = next(iter(inner.values()))
        if wrapped is None:
            break
        inner = wrapped
    assert isinstance(inner, dict)
    for key, value in inner.items():
        if isinstance(value, Opaque) and "tensor" in value.what:
            raise CheckpointError(f"tensor {show_value(key)} is {value.what}; plain real numbers are needed")
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, StoredTensor)}
    if not tensors:
        keys = ", ".join(show_value(key) for key in itertools.islice(inner, KEYS_SHOWN)) or "nothing"
        kind = f"training state without {what}" if _TRAINING_STATE_KEYS & set(inner) else "no weights"
        raise CheckpointError(f"{kind}: it holds {keys}; give the file with {what}")
    return tensors


def _strip_prefixes(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
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
    """A plain fp32 tensor; integers (the counters of a batch normalization) stay what they are.

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
