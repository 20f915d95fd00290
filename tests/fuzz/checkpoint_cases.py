"""Hostile files of weights, each made by a function: small files that ask for much memory or time, or for a crash.

`CASES` has them by name. Pickles are put together instruction by instruction (`Pickle`), archives byte by byte where
`zipfile` would not write what is wanted.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping

import torch

CONV = (6, 3, 3, 3)
ARCH = {"architecture": "compact", "scale": 4, "channels": 3, "features": 6, "blocks": 2}


class Pickle:
    """A pickle of protocol 2 in the making."""

    def __init__(self) -> None:
        self.content = b"\x80\x02"

    def add(self, *parts: bytes) -> Pickle:
        """Instructions as they are."""
        self.content += b"".join(parts)
        return self

    def name(self, module: str, name: str) -> Pickle:
        """A class or function."""
        return self.add(b"c", module.encode(), b"\n", name.encode(), b"\n")

    def tensor(self, *, key: str = "0", count: int = 162, shape: object = CONV, stride: object = None, offset: int = 0,
               storage: str = "FloatStorage", rest: bytes = b"") -> Pickle:  # fmt: skip
        """A call of `_rebuild_tensor_v2`."""
        if stride is None:
            assert isinstance(shape, tuple)
            stride = contiguous(shape)
        self.name("torch._utils", "_rebuild_tensor_v2").add(b"((", text("storage")).name("torch", storage)
        self.add(text(key), text("cpu"), number(count), b"tQ", number(offset), pack(shape), pack(stride), b"\x89")
        return self.name("collections", "OrderedDict").add(b")R", rest, b"tR")

    def end(self) -> bytes:
        """All of it."""
        return self.content + b"."


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor in one piece."""
    strides = [1]
    for side in reversed(shape[1:]):
        strides.insert(0, strides[0] * side)
    return tuple(strides[: len(shape)])


def text(value: str) -> bytes:
    """A text's instruction."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """An integer's instruction, of any size up to 255 bytes."""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def pack(value: object) -> bytes:
    """A tuple of integers, or what is given as bytes."""
    if isinstance(value, bytes):
        return value
    assert isinstance(value, tuple)
    return b"(" + b"".join(map(number, value)) + b"t"


def archive(pickle: bytes, data: Mapping[str, bytes] = {"0": bytes(648)}, *, deflate: bool = False) -> bytes:
    """An archive as torch.save writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickle)
        for key, content in data.items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", "3\n")
    return stream.getvalue()


def save(document: object, *, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(document, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def state(names: Mapping[str, tuple[int, ...]]) -> bytes:
    """A state dict of zeros."""
    return save({name: torch.zeros(shape) for name, shape in names.items()})


def one(pickle: Callable[[Pickle], Pickle]) -> bytes:
    """An archive with a state dict of one tensor, made by `pickle`."""
    return archive(pickle(Pickle().add(b"}", text("body.0.weight"))).add(b"s").end())


def safetensors(header: object, size: int = 0) -> bytes:
    """A file with that header, as it is or as JSON, and that many zeros."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + bytes(size)


def ours(size: int = 0, **changes: object) -> bytes:
    """A safetensors file that says to be a network of ours."""
    metadata = {"format": "sr-deploy", "arch": json.dumps(ARCH | changes)}
    return safetensors({"__metadata__": metadata, "body.0.bias": entry("F32", [6], 0, 24)}, 24)


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def lying_member(size: int) -> bytes:
    """An archive whose one storage says to unpack to that many bytes."""
    pickle = Pickle().add(b"}", text("body.0.weight")).tensor(count=size // 4, shape=(size // 4,)).add(b"s").end()
    whole = bytearray(archive(pickle, {"0": bytes(100_000)}, deflate=True))
    at = whole.find(b"PK\x01\x02", whole.find(b"PK\x01\x02") + 4)
    struct.pack_into("<I", whole, at + 24, size)
    return bytes(whole)


def many_members(count: int) -> bytes:
    """An archive whose directory says, and has, that many members."""
    local = b"PK\x03\x04" + bytes(26)
    entries = b"".join(b"PK\x01\x02" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"%05x" % n for n in range(count))
    end = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(entries), len(local))
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(local) + len(entries), 1)
    old_end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return local + entries + end + locator + old_end


def laughs(depth: int) -> bytes:
    """Tuples of two that hold the one before twice: 2^depth values in a few bytes."""
    pickle = Pickle().add(b")")
    for level in range(depth):
        pickle.add(b"q", bytes([level % 256]), b"h", bytes([level % 256]), b"\x86")
    return archive(pickle.end())


def repeated_pairs(count: int) -> bytes:
    """One list of pairs, made a dictionary many times: work that grows with the square of the file."""
    pair = b"]" + b"(K\x01K\x02e"
    pickle = Pickle().add(b"](", pair * count, b"eq\x00", b"]")
    return archive(pickle.add((b"ccollections\nOrderedDict\nh\x00\x85Ra") * count).end())


def nested(depth: int, container: bytes) -> bytes:
    """Containers inside one another; `container` puts the top of the stack into one."""
    return archive(Pickle().add(b")", container * depth).end())


def special(tensor: torch.Tensor) -> bytes:
    """A state dict with that tensor and a plain one."""
    return save({"body.0.weight": tensor, "body.1.weight": torch.zeros(6)})


def _nested_tensor() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


def _all_on_one(blocks: int) -> bytes:
    """A whole compact network of one storage."""
    numbers = torch.zeros(64, 64, 3, 3, dtype=torch.half)
    tensors = {
        "body.0.weight": numbers[:, :3],
        "body.0.bias": numbers[0, :, 0, 0],
        "body.1.weight": numbers[0, :, 0, 0],
    }
    for block in range(1, blocks + 1):
        tensors |= {f"body.{2 * block}.weight": numbers, f"body.{2 * block}.bias": numbers[0, :, 0, 0]}
        tensors |= {f"body.{2 * block + 1}.weight": numbers[0, :, 0, 0]}
    last = f"body.{2 * blocks + 2}"
    return save(tensors | {f"{last}.weight": numbers[:48], f"{last}.bias": numbers[0, :48, 0, 0]})


COMPACT = {"body.0.weight": CONV, "body.0.bias": (6,), "body.1.weight": (6,)}
RRDB = {"conv_first.weight": CONV, "conv_last.weight": (3, 6, 3, 3), "body.0.rdb1.conv1.weight": (4, 6, 3, 3)}
MSR = {"conv_first.weight": CONV, "upconv1.weight": (24, 6, 3, 3), "body.0.conv1.weight": (6, 6, 3, 3)}
TOO_LONG = "9" * 900
HUGE = 10**12

CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "numbers in keys": (lambda: state(COMPACT | {"body.2000000000.weight": (48, 6, 3, 3)}), "numbered body.2000000000"),
    "long numbers in keys": (lambda: state(COMPACT | {f"body.{TOO_LONG}.weight": (6,)}), "numbered body.9999"),
    "numbers of dense blocks": (
        lambda: state(RRDB | {f"body.{HUGE}.rdb1.conv1.weight": (4, 6, 3, 3)}),
        "numbered body",
    ),
    "numbers of upsamples": (
        lambda: state(RRDB | {"conv_up1.weight": CONV, f"conv_up{HUGE}.weight": CONV}),
        "conv_up10",
    ),
    "many upsamples": (
        lambda: state(
            {"conv_first.weight": CONV, "bn_body.weight": (6,)} | {f"upsample.{n}.x": (1,) for n in range(999)}
        ),
        "scale would be",
    ),
    "numbers of shuffles": (
        lambda: state({"conv_first.weight": CONV, "bn_body.weight": (6,), f"upsample.{HUGE}.x": (1,)}),
        "numbered upsample",
    ),
    "numbers of residual blocks": (lambda: state(MSR | {f"body.{HUGE}.conv1.weight": CONV}), "numbered body"),
    "numbers of old layers": (
        lambda: state({"model.1.sub.0.RDB1.conv1.0.weight": CONV, f"model.{HUGE}.weight": CONV}),
        "numbered model",
    ),
    "many old layers": (
        lambda: state({"model.1.sub.0.RDB1.conv1.0.weight": (1,)} | {f"model.{n}.weight": (1,) for n in range(5000)}),
        "the last layer is 'model.4999'",
    ),
    "blocks of ours": (lambda: ours(blocks=10**9), "blocks"),
    "features of ours": (lambda: ours(features=10**12), "features"),
    "growth of ours": (lambda: ours(architecture="rrdbnet", growth=2**70), "growth"),
    "digits of ours": (
        lambda: safetensors({"__metadata__": {"format": "sr-deploy", "arch": '{"scale": ' + "9" * 5000}}),
        "no network",
    ),
    "more blocks than tensors": (lambda: ours(blocks=1000), "cannot be made of 1 tensors"),
    "one number for many": (
        lambda: save({"body.0.weight": torch.zeros(1).expand(20_000, 30_000, 3, 3)}),
        "holds less than it says",
    ),
    "one number for many, old": (
        lambda: save({"x": torch.zeros(1).expand(2**40)}, legacy=True),
        "holds less than it says",
    ),
    "all on one": (lambda: _all_on_one(1000), "some share their numbers"),
    "deflated": (lambda: archive(one_tensor(2**26), {"0": bytes(2**28)}, deflate=True), "do not compress that much"),
    "deflated, and lying": (lambda: lying_member(2**32 - 4), "do not compress that much"),
    "deflated pickle": (
        lambda: archive(b"\x80\x02" + b"N0" * 2**25 + b".", {}, deflate=True),
        "do not compress that much",
    ),
    "many members": (lambda: many_members(200_000), "200000 members"),
    "nested tuples": (lambda: nested(400_000, b"\x85"), "containers inside one another"),
    "nested lists": (
        lambda: archive(Pickle().add(b"]" * 400_000, b"a" * 399_999).end()),
        "containers inside one another",
    ),
    "nested keys": (lambda: archive(Pickle().add(b"})", b"\x85" * 500_000, b"Ns").end()), "for a key"),
    "keys of one hash": (
        lambda: archive(Pickle().add(b"}", *(number(n * (2**61 - 1)) + b"Ns" for n in range(3, 40_000))).end()),
        "for a key",
    ),
    "itself": (lambda: archive(Pickle().add(b"]q\x00h\x00a").end()), "containers inside one another"),
    "laughs": (lambda: laughs(60), "steps or values"),
    "pairs again and again": (lambda: repeated_pairs(20_000), "steps or values"),
    "many steps": (lambda: archive(b"\x80\x02" + b"N0" * 2_000_000 + b"."), "which torch.save does not write"),
    "many values": (lambda: archive(Pickle().add(b"]", b"Na" * 1_500_000).end()), "steps or values"),
    "places in the memo": (lambda: archive(Pickle().add(b"}r", b"\xff" * 4).end()), "no weights"),
    "a long text": (lambda: archive(Pickle().add(b"X", b"\xff" * 4).end()), "breaks off"),
    "a long storage": (lambda: one(lambda pickle: pickle.tensor(count=2**61)), "speaks of 9223372036854775808 bytes"),
    "a negative storage": (lambda: one(lambda pickle: pickle.tensor(count=-5)), "contradicts itself"),
    "a negative side": (
        lambda: one(lambda pickle: pickle.tensor(shape=(-1, 3, 3, 3), stride=CONV)),
        "for sides or strides",
    ),
    "a negative offset": (lambda: one(lambda pickle: pickle.tensor(offset=-1)), "begins at -1"),
    "a large offset": (lambda: one(lambda pickle: pickle.tensor(offset=2**64)), "begins at"),
    "sides beyond 64 bits": (
        lambda: one(lambda pickle: pickle.tensor(shape=(2**1000, 1), stride=(1, 1))),
        "for sides or strides",
    ),
    "many axes": (lambda: one(lambda pickle: pickle.tensor(shape=(1,) * 50_000)), "a tuple of 50000"),
    "another type": (
        lambda: archive(Pickle().add(b"}", text("x")).name("torch", "float4_e2m1fn_x2").add(b"s").end()),
        "no weights",
    ),
    "code by a known name": (
        lambda: archive(Pickle().name("torch", "load").add(b"(", text("x"), b"tR").end()),
        "asks for 'torch.load'",
    ),
    "a class of numbers called": (
        lambda: archive(Pickle().name("torch", "float32").add(b")R").end()),
        "contradicts itself",
    ),
    "a tensor without its storage": (
        lambda: archive(Pickle().name("torch._utils", "_rebuild_tensor_v2").add(b"(NK\x00))\x89NtR").end()),
        "contradicts itself",
    ),
    "meta": (lambda: special(torch.zeros(6, 3, 3, 3, device="meta")), "on the meta device"),
    "nested": (lambda: special(_nested_tensor()), "a nested tensor"),
    "quantized": (
        lambda: special(torch.quantize_per_tensor(torch.zeros(CONV), 1.0, 0, torch.qint8)),
        "a quantized tensor",
    ),
    "sparse": (lambda: special(torch.zeros(CONV).to_sparse()), "a sparse tensor"),
    "float4": (
        lambda: special(torch.zeros(CONV, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)),
        "numbers of type 'float4_e2m1fn_x2'",
    ),
    "complex": (lambda: special(torch.zeros(CONV, dtype=torch.complex64)), "4 axes"),
    "to be negated": (lambda: special(torch.zeros(CONV, dtype=torch.complex64).conj().imag), "conjugated or negated"),
    "a header of 2 GB": (
        lambda: struct.pack("<Q", 2**31) + b"{" + bytes(4000),
        "its header would have 2147483648 bytes",
    ),
    "a header nested": (lambda: safetensors(b'{"a":' + b"[" * 200_000), "nested deeper than"),
    "a header with long numbers": (lambda: safetensors(b'{"a": ' + b"9" * 5000 + b"}"), "its header"),
    "one key twice": (
        lambda: safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            1,
        ),
        "the key 'a' occurs twice",
    ),
    "tensors on one another": (
        lambda: safetensors({n: entry("F32", [4], 0, 16) for n in "ab"}, 16),
        "begins at byte 0",
    ),
    "a hole": (lambda: safetensors({"a": entry("F32", [1], 4, 8)}, 8), "begins at byte 4"),
    "more than it says": (lambda: safetensors({"a": entry("F32", [1], 0, 4)}, 8), "and the file has"),
    "sides that overflow": (
        lambda: safetensors({"a": entry("F32", [2**33, 2**33], 0, 4)}, 4),
        "takes 295147905179352825856 bytes",
    ),
    "no numbers and large sides": (lambda: safetensors({"a": entry("F32", [2**60, 0, 2**60], 0, 0)}), "unknown layout"),
    "backwards": (lambda: safetensors({"a": entry("F32", [1], 4, 0)}, 4), "begins at byte 4"),
    "offsets that are none": (lambda: safetensors({"a": entry("F32", [1], 0, 1e300)}, 4), "where it lies"),
    "types of four bits": (lambda: safetensors({"a": entry("F4", [2], 0, 1)}, 1), "numbers of type 'F4'"),
    "many empty tensors": (
        lambda: safetensors({f"{n:x}": entry("F32", [0], 0, 0) for n in range(60_000)}),
        "60000 tensors",
    ),
    "long keys": (lambda: save({"module." * 700_000: torch.zeros(1)}), "characters"),
    "long keys of no layout": (lambda: save({f"{n}{'k' * 1000}": torch.zeros(1) for n in range(9)}), "unknown layout"),
}
"""By name: what makes the file, and words of the one line that refuses it as a generator."""


def one_tensor(count: int) -> bytes:
    """A pickle of a state dict with one tensor of that many numbers."""
    return Pickle().add(b"}", text("body.0.weight")).tensor(count=count, shape=(count,)).add(b"s").end()
