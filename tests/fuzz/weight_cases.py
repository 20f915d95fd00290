"""Damaged files of weights: sound ones in each form that torch and safetensors write, changed where readers look."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import re
import struct
import zipfile
from functools import cache

import torch
from safetensors.torch import save

from tests.fuzz.checkpoint_cases import CASES
from tests.fuzz.mutate import damage_bytes, damage_json, write_json

_HEADER = 8


def make_case(seed: int) -> tuple[str, str, bytes]:
    """One file: what it is, its suffix, its bytes."""
    draw = random.Random(seed)
    roll = draw.random()
    if roll < 0.02:
        name = draw.choice(sorted(CASES))
        content = CASES[name][0]()
        return name, "safetensors" if content[_HEADER : _HEADER + 1] == b"{" else "pth", content
    if roll < 0.4:
        return "safetensors", "safetensors", _damage_safetensors(draw)
    if roll < 0.6:
        return "pickle", "pth", _zip(draw, _damage_pickle(draw, _parts()["data.pkl"]))
    if roll < 0.8:
        return "zip", "pth", damage_bytes(draw, _torch_file(legacy=False), head=draw.choice((None, 600)))
    if roll < 0.9:
        return "legacy", "pth", damage_bytes(draw, _torch_file(legacy=True), head=draw.choice((None, 900)))
    return "own", "safetensors", damage_bytes(draw, _safetensors(own=True), head=draw.choice((None, 400)))


@cache
def _state() -> dict[str, torch.Tensor]:
    """A compact network, 2x, with 4 features and 1 block."""
    torch.manual_seed(0)
    shapes = {"body.0": (4, 3, 3, 3), "body.1": (4,), "body.2": (4, 4, 3, 3), "body.3": (4,), "body.4": (12, 4, 3, 3)}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape) * 0.1
        if len(shape) > 1:
            state[f"{name}.bias"] = torch.zeros(shape[0])
    return state


@cache
def _torch_file(*, legacy: bool) -> bytes:
    target = io.BytesIO()
    state = _state()
    if legacy:  # in one storage: the older form names and sorts storages by address, another one in each process
        whole = torch.cat([one.flatten() for one in state.values()])
        pieces = whole.split([one.numel() for one in state.values()])
        state = {name: piece.view(one.shape) for (name, one), piece in zip(state.items(), pieces, strict=True)}
    torch.save({"params_ema": state, "iter": 5}, target, _use_new_zipfile_serialization=not legacy)
    content = target.getvalue()
    return re.sub(rb"X[\x08-\x14]\x00\x00\x00\d{8,20}", b"X\x04\x00\x00\x00only", content) if legacy else content


@cache
def _parts() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_torch_file(legacy=False))) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _zip(draw: random.Random, content: bytes) -> bytes:
    """The archive with another pickle in it, and now and then with a member twice, away, or packed."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", draw.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, part in _parts().items():
            if draw.random() < 0.01:
                continue
            member = zipfile.ZipInfo(f"archive/{name}")  # without the time of now
            archive.writestr(member, content if name == "data.pkl" else part, archive.compression)
    return target.getvalue()


def _damage_pickle(draw: random.Random, content: bytes) -> bytes:
    """Instructions changed, repeated, left out or moved; numbers and texts inside them changed."""
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    steps = [content[start:end] for start, end in zip(places, [*places[1:], len(content)], strict=True)]
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(steps))
        what = draw.randrange(7)
        if what == 0:
            del steps[at]
        elif what == 1:
            steps.insert(at, steps[draw.randrange(len(steps))])
        elif what == 2:
            steps[at] = damage_bytes(draw, steps[at])
        elif what == 3:
            steps[at] = draw.choice(
                (b"K\x00", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 9, b"M\xff\xff", b"N", b")", b"]")
            )
        elif what == 4:
            steps[at:at] = [
                draw.choice((b"(" * 2000, b")" * 50, b"\x85" * 3000, b"0" * 5, b"2" * 100, b"R", b"b", b"\x81"))
            ]
        elif what == 5:
            steps[at:at] = [
                b"c"
                + draw.choice((b"os\nsystem", b"torch\nload", b"builtins\neval", b"torch._utils\n_rebuild_tensor_v2"))
                + b"\n"
            ]
        else:
            other = draw.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
    return b"".join(steps) if steps else pickle.dumps(None)


@cache
def _safetensors(*, own: bool) -> bytes:
    arch = {"architecture": "compact", "scale": 2, "channels": 3, "features": 4, "blocks": 1}
    metadata = {"sr_deploy.arch": json.dumps(arch)} if own else None
    return save(_state(), metadata)


def _damage_safetensors(draw: random.Random) -> bytes:
    content = _safetensors(own=draw.random() < 0.5)
    (length,) = struct.unpack("<Q", content[:_HEADER])
    header, body = json.loads(content[_HEADER : _HEADER + length]), content[_HEADER + length :]
    packed = content[_HEADER : _HEADER + length]
    if draw.random() < 0.8:
        packed = write_json(draw, damage_json(draw, header))
    claimed = len(packed) if draw.random() < 0.9 else draw.choice((0, 1, len(packed) * 2, 2**31, 2**63, 2**64 - 1))
    if draw.random() < 0.2:
        body = damage_bytes(draw, body)
    return struct.pack("<Q", claimed) + packed + body
