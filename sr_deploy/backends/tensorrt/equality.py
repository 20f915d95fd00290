"""Whether two engines that one builder made are the same but for what differs between sound builds of one graph.

TensorRT-RTX is not reproducible to the byte. It numbers the sizes that an engine computes for itself, and orders their
factors, by where they happen to lie in memory; of some networks no two builds are alike. Everything else is: weights,
kernels, their launches, and the listing that says which kernel reads and writes what. So here

    listing   text of the engine. Names of host scalars are left out; how many of each kind there are, and how often
              each is used, has to agree
    rest      every byte, but for small integers in the description of the sizes, and lengths that follow from the
              listing's

`benchmarks/engine_builds.py` builds a graph many times and shows what varies and that it is taken as equal.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.backends.description import Difference

_PRINTABLE = np.array([byte in b"\t\n\r" or 32 <= byte < 127 for byte in range(256)])
_LISTING = 200
"""Printable bytes in a row that are taken for a part of the listing."""
# Every repetition below is bounded: an engine may be made to keep the search busy.
_TENSOR = re.compile(
    rb'tensor=\{[^\n]{0,4000}?name="(?:proxy_)?(__mye\d+)[^"\n]{0,400}"[^\n]{0,4000}?region="?([^"\s]{0,400})'
)
_NAME = re.compile(rb'"[^"\n]{0,400}?(__mye\d+)[^"\n]{0,400}"|"__s\^[^"\n]{0,400}"|__mye\d+')
_HOST_OFFSET = re.compile(rb'offset=\d+(?= [^\n]{0,4000}region="(?:shape_)?system_hmem")')
_HOST = (b"shape_system_hmem", b"system_hmem")
_CONSTANT = b'"__s^'
_SIZES = re.compile(rb"[\x06\x07\x09]\x80\x01\x00")
_SIZES_REACH = 96
_OPERATION = b"\x02\x80\x01\x00"
_SMALL = 127
_MOST_APART = 4096
"""Sound builds have the same length, or lengths that differ by their padding."""
_MOST_PLACES = 2**16
_SHOWN = 40


def find_difference(engine: bytes, due: bytes) -> Difference | None:
    """What distinguishes an engine from the one that is due; None if sound builds differ no less.

    Args:
        engine: all bytes of an untrusted file.
        due: built here from the graph that the other one is said to be of.
    """
    if engine == due:
        return None
    if abs(len(engine) - len(due)) > _MOST_APART:
        return Difference(f"it has {len(engine)} bytes where {len(due)} are due")
    seen, wanted = _split(engine), _split(due)
    if len(seen.listings) != len(wanted.listings):
        return Difference(f"its listing has {len(seen.listings)} parts where {len(wanted.listings)} are due")
    in_listing = _compare_listings(seen.listings, wanted.listings)
    if in_listing is not None:
        return Difference(in_listing)
    longer = sum(map(len, seen.listings)) - sum(map(len, wanted.listings))
    listed = _list_places(seen, wanted, {longer, len(engine) - len(due)} - {0})
    places = tuple(itertools.islice(listed, _MOST_PLACES))
    count = f"{len(places)} bytes" if len(places) < _MOST_PLACES else f"{_MOST_PLACES} bytes or more"
    return Difference(f"{count} of its weights and kernels differ", places) if places else None


@dataclass(frozen=True)
class _Parts:
    """An engine, taken apart: the rest that lies before each listing, and after the last."""

    listings: list[bytes]
    rest: list[bytes]
    starts: list[int]
    """Where each part of the rest begins."""


def _split(engine: bytes) -> _Parts:
    parts = _Parts([], [], [])
    printable = np.pad(_PRINTABLE[np.frombuffer(engine, np.uint8)], 1)
    runs = np.flatnonzero(printable[1:] != printable[:-1]).reshape(-1, 2)
    place = 0
    for begin, end in runs[runs[:, 1] - runs[:, 0] >= _LISTING].tolist():
        parts.starts.append(place)
        parts.rest.append(engine[place:begin])
        parts.listings.append(engine[begin:end])
        place = end
    parts.starts.append(place)
    parts.rest.append(engine[place:])
    return parts


# --- the listing ---


def _compare_listings(seen: Sequence[bytes], wanted: Sequence[bytes]) -> str | None:
    """What the one listing says where the other says something else."""
    # Which tensors are images or weights is for the engine that is due to say.
    tensors = (match for text in wanted if b"__mye" in text for match in _TENSOR.finditer(text))
    device = frozenset(match[1] for match in tensors if match[2] not in _HOST)
    names: tuple[list[bytes], list[bytes]] = [], []
    for text, due in zip(seen, wanted, strict=True):
        mine, theirs = _leave_out_names(text, device, names[0]), _leave_out_names(due, device, names[1])
        if mine != theirs:
            return _describe_text(mine, theirs)
    kinds = [_count_kinds(left_out) for left_out in names]
    for kind in sorted(kinds[0].keys() | kinds[1].keys()):
        if kinds[0][kind] != kinds[1][kind]:
            return f"its listing has {_show(kind)} {kinds[0][kind]} times where {kinds[1][kind]} times are due"
    if _count_uses(names[0]) != _count_uses(names[1]):
        return "its listing connects the sizes that it computes in another way"
    return None


def _leave_out_names(text: bytes, device: frozenset[bytes], left_out: list[bytes]) -> bytes:
    """The text without names of host scalars, which go to `left_out`, and without their places in host memory."""
    if b"__mye" not in text and b"__s^" not in text:
        return text

    def leave_out(match: re.Match[bytes]) -> bytes:
        if match[0] in device or match[1] in device:
            return match[0]
        left_out.append(match[0])
        return b'"scalar"' if match[0].startswith(b'"') else b"scalar"

    return _HOST_OFFSET.sub(b"offset=", _NAME.sub(leave_out, text))


def _count_kinds(names: Sequence[bytes]) -> Counter[bytes]:
    """Names by what they are without their numbers; a constant is its number."""
    return Counter(name if name.startswith(_CONSTANT) else re.sub(rb"\d+", b"", name) for name in names)


def _count_uses(names: Sequence[bytes]) -> Counter[int]:
    """How many names occur how often."""
    return Counter(Counter(names).values())


def _describe_text(seen: bytes, due: bytes) -> str:
    shortest = min(len(seen), len(due))
    apart = np.frombuffer(seen, np.uint8, shortest) != np.frombuffer(due, np.uint8, shortest)
    first = int(np.argmax(apart)) if apart.any() else shortest
    begin = max(0, first - _SHOWN // 2)
    words = [_show(text[begin : first + _SHOWN]) for text in (seen, due)]
    return f"its listing says {words[0]} where {words[1]} is due"


def _show(text: bytes) -> str:
    return repr(" ".join(text.decode("ascii", "replace").split()))


# --- the rest ---


def _list_places(seen: _Parts, wanted: _Parts, lengths: set[int]) -> Iterator[int]:
    for mine, theirs, start in zip(seen.rest, wanted.rest, wanted.starts, strict=True):
        if mine != theirs:
            aligned, shift = _align(mine, theirs)
            for place in _list_unexplained(*aligned, lengths):
                yield start + place + (shift.stop - shift.start if place >= shift.start else 0)


def _align(mine: bytes, theirs: bytes) -> tuple[tuple[bytes, bytes], slice]:
    """Both at the same length, without the padding that the longer one has more.

    Returns:
        The two, and which bytes of `theirs` were left out.
    """
    surplus = len(mine) - len(theirs)
    if not surplus:
        return (mine, theirs), slice(0, 0)
    longer = mine if surplus > 0 else theirs
    shortest, surplus = min(len(mine), len(theirs)), abs(surplus)
    tails = (np.frombuffer(part[len(part) - shortest :], np.uint8) for part in (mine, theirs))
    apart = np.flatnonzero(np.not_equal(*tails))
    begin = int(apart[-1]) + 1 if len(apart) else 0
    found = longer.find(bytes(surplus), begin)  # the padding comes before what is aligned
    begin = found if found >= 0 else shortest
    shortened = longer[:begin] + longer[begin + surplus :]
    pair = (shortened, theirs) if longer is mine else (mine, shortened)
    return pair, slice(0, 0) if longer is mine else slice(begin, begin + surplus)


def _list_unexplained(mine: bytes, theirs: bytes, lengths: set[int]) -> Iterator[int]:
    """Places of two texts of the same length that are apart by more than sound builds are."""
    explained = 0
    for place in np.flatnonzero(np.frombuffer(mine, np.uint8) != np.frombuffer(theirs, np.uint8)).tolist():
        if place < explained:
            continue
        if _are_sizes(mine, theirs, place) or _whole(mine, place, 8) - _whole(theirs, place, 8) in lengths:
            explained = place + 8
        elif not mine[place - 4 : place] == theirs[place - 4 : place] == _OPERATION:
            yield place


def _are_sizes(mine: bytes, theirs: bytes, place: int) -> bool:
    """Whether both are small numbers among those by which an engine says how its sizes are computed."""
    small = all(abs(_whole(part, place, 4)) <= _SMALL for part in (mine, theirs))
    return small and _SIZES.search(theirs, max(0, place - _SIZES_REACH), place) is not None


def _whole(part: bytes, place: int, size: int) -> int:
    return int.from_bytes(part[place : place + size], "little", signed=True)
