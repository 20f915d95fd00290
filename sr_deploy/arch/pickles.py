"""The pickles that `torch.save` writes: no code is called, and nothing is made that the file does not hold.

torch's own restricted unpickler calls torch with whatever arguments stand in the file, and hashes tuples of any depth,
which can end the process. Here tensors become records of where their numbers lie, containers become plain ones, and
all else that torch would make becomes an `Opaque` that says what it was.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from sr_deploy.arch.stored import Storage, StoredTensor, make_stored_tensor
from sr_deploy.errors import CheckpointError
from sr_deploy.legible import show_value

MAX_PICKLE_BYTES = 1 << 26
"""Longest pickle that is read; that of a network with a thousand tensors has a thousandth of it."""
MAX_PICKLE_STEPS = 1_000_000
"""Most instructions of a pickle, and most values in what it makes, those met twice counted twice."""
MAX_DEPTH = 64
"""Containers inside one another."""
_CONTAINERS = ("collections.OrderedDict", "collections.Counter")
_PLAIN_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
)
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_UNTYPED = "torch.storage.UntypedStorage"
_TYPE_NAME = re.compile(r"(u?int|b?float|complex|bits|qu?int|bool|per_(tensor|channel))[0-9a-z_]*")
_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32",
}  # fmt: skip
_OPAQUE = {
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, which has no values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor made from numpy's bytes",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another kind of device",
    "torch.Tensor": "a tensor of a very old torch",
    "torch.serialization._get_layout": "a layout",
    "torch.device": "a device",
    "_codecs.encode": "bytes",
    "builtins.bytearray": "bytes",
    "builtins.set": "a set",
    "builtins.complex": "a complex number",
}
_TAKEN = frozenset((*_CONTAINERS, *_PLAIN_TENSORS, *_PARAMETERS, *_OPAQUE, _WITH_ATTRIBUTES, _UNTYPED, "torch.Size"))


@dataclass(frozen=True)
class Opaque:
    """Something that torch would make and that is neither plain numbers nor a plain container."""

    what: str
    """For people, as in `a sparse tensor`."""


@dataclass(frozen=True)
class _Global:
    """A class or function that a pickle names; it is never looked up."""

    name: str


class _Mark:
    """Stands on the stack where the items of a container begin."""


class PickleReader:
    """Reads a file's pickles, one after another, from its bytes."""

    def __init__(self, content: bytes) -> None:
        self.at = 0
        """Where the next pickle begins."""
        self.storages: dict[str, Storage] = {}
        """What the tensors lie in, by key; where in the file is for the caller to say."""
        self.steps = 0
        """Of `MAX_PICKLE_STEPS`, so far."""
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self._content = content

    def read(self) -> object:
        """What the next pickle holds: dicts, lists, tuples, plain values, `StoredTensor`s and `Opaque`s.

        Raises:
            CheckpointError: it names what could run code, is damaged, or is larger than what `torch.save` makes of
                weights (no file name in it).
        """
        self.stack, self.memo = [], {}
        try:
            document = self._run()
        except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise CheckpointError(
                f"damaged or truncated (its pickle breaks off or contradicts itself before byte {self.at}); copy or "
                "download it again"
            ) from error
        _check_tree(document)
        return document

    def take(self, count: int) -> bytes:
        """The next bytes."""
        part = self._content[self.at : self.at + count]
        if len(part) < count:
            raise IndexError
        self.at += count
        return part

    def take_line(self) -> str:
        """Text up to the end of the line."""
        end = self._content.index(b"\n", self.at)
        line = self._content[self.at : end]
        self.at = end + 1
        return line.decode()

    def count(self, steps: int) -> None:
        """Add to the work that was done."""
        self.steps += steps
        if self.steps > MAX_PICKLE_STEPS:
            _refuse_size()

    def pop_items(self) -> list[object]:
        """The items above the last mark."""
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1
            if at < 0:
                raise IndexError
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _run(self) -> object:
        while True:
            code = self.take(1)
            if code == b".":
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise CheckpointError(
                    f"damaged, or no file of torch.save (its pickle has the instruction {code!r}, which torch.save "
                    "does not write); only tensors and plain containers are loaded"
                )
            self.count(1)
            instruction(self)


def _skip_protocol(reader: PickleReader) -> None:
    reader.take(1)


def _push(make: Callable[[PickleReader], object]) -> Callable[[PickleReader], None]:
    def instruction(reader: PickleReader) -> None:
        reader.stack.append(make(reader))

    return instruction


def _unpack(form: str, size: int) -> Callable[[PickleReader], None]:
    return _push(lambda reader: struct.unpack(form, reader.take(size))[0])


def _take_text(reader: PickleReader) -> str:
    return reader.take(int.from_bytes(reader.take(4), "little")).decode("utf-8", "surrogatepass")


def _take_short_text(reader: PickleReader) -> str:
    """A text of Python 2, which has no encoding."""
    part = reader.take(reader.take(1)[0])
    try:
        return part.decode()
    except UnicodeDecodeError:
        return part.decode("latin-1")


def _take_integer(reader: PickleReader) -> int:
    return int.from_bytes(reader.take(reader.take(1)[0]), "little", signed=True)


def _take_global(reader: PickleReader) -> _Global:
    module, name = reader.take_line(), reader.take_line()
    full = f"{'builtins' if module == '__builtin__' else module}.{name}"
    storage = module in ("torch", "torch.cuda") and name.removesuffix("Storage") in _STORAGES
    dtype = module == "torch" and _TYPE_NAME.fullmatch(name)
    if full not in _TAKEN and not storage and not dtype:
        raise CheckpointError(
            f"refused: the pickle asks for {show_value(full.removeprefix('builtins.'))}, and only tensors and plain "
            "containers are loaded (anything else could run code); save the network's state_dict() alone and give that"
        )
    return _Global(full)


def _memoize(size: int) -> Callable[[PickleReader], None]:
    def instruction(reader: PickleReader) -> None:
        reader.memo[int.from_bytes(reader.take(size), "little")] = reader.stack[-1]

    return instruction


def _recall(size: int) -> Callable[[PickleReader], None]:
    return _push(lambda reader: reader.memo[int.from_bytes(reader.take(size), "little")])


def _make_tuple(count: int) -> Callable[[PickleReader], None]:
    def instruction(reader: PickleReader) -> None:
        if len(reader.stack) < count:
            raise IndexError
        items = tuple(reader.stack[-count:])
        del reader.stack[-count:]
        reader.stack.append(items)

    return instruction


def _append(reader: PickleReader) -> None:
    _extend(reader, [reader.stack.pop()])


def _extend(reader: PickleReader, items: list[object]) -> None:
    target = reader.stack[-1]
    if not isinstance(target, list):
        raise TypeError
    target.extend(items)


def _set_items(reader: PickleReader, items: list[object]) -> None:
    target = reader.stack[-1]
    if not isinstance(target, dict):
        raise TypeError
    _fill(target, zip(items[::2], items[1::2], strict=True))


def _fill(target: dict[object, object], pairs: Iterable[tuple[object, object]]) -> None:
    for key, value in pairs:
        # Python hashes tuples without end, and integers of any length can be chosen to have one and the same hash.
        plain = key is None or isinstance(key, str | float) or (isinstance(key, int) and abs(key) < 1 << 63)
        if not plain:
            raise CheckpointError(
                f"refused: a dictionary has {show_value(key)} for a key, and only texts and numbers of 64 bits are "
                "taken; save the network's state_dict() alone and give that"
            )
        target[key] = value


def _build(reader: PickleReader) -> None:
    """Leave out attributes: those that a state dict has only name its version."""
    reader.stack.pop()
    if not isinstance(reader.stack[-1], dict | Opaque):
        raise TypeError


def _reduce(reader: PickleReader) -> None:
    arguments, made = reader.stack.pop(), reader.stack.pop()
    if not isinstance(made, _Global) or not isinstance(arguments, tuple):
        raise TypeError
    reader.stack.append(_call(reader, made.name, arguments))


def _call(reader: PickleReader, name: str, arguments: tuple[object, ...]) -> object:
    """What torch would make."""
    if name in _CONTAINERS:
        return _make_dict(reader, arguments)
    if name == _WITH_ATTRIBUTES:
        inner, _, given, _ = arguments
        if not isinstance(inner, _Global) or not isinstance(given, tuple):
            raise TypeError
        name, arguments = inner.name, given
    if name in _PLAIN_TENSORS:
        return _make_tensor(name, arguments)
    if name in _PARAMETERS or name == "torch.Size":
        return arguments[0]
    if name in _OPAQUE:
        return Opaque(_OPAQUE[name])
    raise TypeError


def _make_dict(reader: PickleReader, arguments: tuple[object, ...]) -> dict[object, object]:
    """From nothing, from a dict, or from a list of pairs, as Python 2 wrote them."""
    made: dict[object, object] = {}
    for content in arguments:
        if not isinstance(content, dict | list):
            raise TypeError
        reader.count(len(content))  # the file may name one large list many times
        pairs = content.items() if isinstance(content, dict) else ((pair[0], pair[1]) for pair in content)
        _fill(made, pairs)
    return made


def _make_tensor(name: str, arguments: tuple[object, ...]) -> StoredTensor | Opaque:
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, Storage):
        raise TypeError
    dtype: object = storage.dtype
    rest = list(arguments[6:])
    if name.endswith("_v3"):
        named = rest.pop(0)
        dtype = named.name.removeprefix("torch.") if isinstance(named, _Global) else named
    if any(rest):  # bits that say to conjugate or to negate the numbers when they are used
        return Opaque("a tensor that is to be conjugated or negated")
    return make_stored_tensor(storage, str(dtype), shape, stride, offset)


def _find_storage(reader: PickleReader) -> None:
    """What torch calls a persistent id: `("storage", type, key, device, count)`, and views of old."""
    named = reader.stack.pop()
    if not isinstance(named, tuple) or len(named) < 5 or named[0] != "storage" or any(named[5:]):
        raise TypeError
    _, kind, key, _, count = named[:5]
    if not isinstance(kind, _Global) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise TypeError
    name = kind.name.rpartition(".")[2].removesuffix("Storage")
    dtype = "uint8" if kind.name == _UNTYPED else _STORAGES[name]
    seen = reader.storages.setdefault(key, Storage(dtype, count))
    if (seen.dtype, seen.count) != (dtype, count):
        raise ValueError
    reader.stack.append(seen)


def _check_tree(document: object) -> None:
    """Refuse what is too deep, holds itself, or names one part so often that walking it would not end."""
    level = [document]
    count = 0
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
            elif isinstance(one, list | tuple):
                below += one
            if len(below) > MAX_PICKLE_STEPS:
                _refuse_size()
        count += len(below)
        if not below:
            return
        if count > MAX_PICKLE_STEPS:
            _refuse_size()
        level = below
    raise CheckpointError(
        f"refused: it has more than {MAX_DEPTH} containers inside one another; save the network's state_dict() alone "
        "and give that"
    )


def _refuse_size() -> NoReturn:
    raise CheckpointError(
        f"refused: its pickle has more than {MAX_PICKLE_STEPS} steps or values, a hundred times those of a large "
        "network; save the network's state_dict() alone and give that"
    )


_INSTRUCTIONS: dict[bytes, Callable[[PickleReader], None]] = {
    b"\x80": _skip_protocol,
    b"c": _push(_take_global),
    b"R": _reduce,
    b"\x81": _reduce,
    b"b": _build,
    b"Q": _find_storage,
    b"(": _push(lambda _: _Mark()),
    b"t": _push(lambda reader: tuple(reader.pop_items())),
    b"\x85": _make_tuple(1),
    b"\x86": _make_tuple(2),
    b"\x87": _make_tuple(3),
    b")": _push(lambda _: ()),
    b"]": _push(lambda _: []),
    b"}": _push(lambda _: {}),
    b"a": _append,
    b"e": lambda reader: _extend(reader, reader.pop_items()),
    b"s": lambda reader: _set_items(reader, [reader.stack.pop(-2), reader.stack.pop()]),
    b"u": lambda reader: _set_items(reader, reader.pop_items()),
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b"J": _unpack("<i", 4),
    b"K": _unpack("B", 1),
    b"M": _unpack("<H", 2),
    b"G": _unpack(">d", 8),
    b"X": _push(_take_text),
    b"U": _push(_take_short_text),
    b"\x8a": _push(_take_integer),
    b"q": _memoize(1),
    b"r": _memoize(4),
    b"h": _recall(1),
    b"j": _recall(4),
}
