"""Random access points of a video: packets at which a decoder can begin, and give the frames of a full decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import CodecContext, Packet


_KEYS_FORGET = ("vp8", "vp9", "av1", "ffv1")
"""Codecs whose key frames reset a decoder."""
_SEQUENCE_HEADER = b"\0\0\1\xb3"
_START = b"\0\0\1"
_H264_SLICES, _H264_IDR = range(1, 6), range(5, 6)
_H265_SLICES, _H265_IRAP = range(32), range(16, 22)


@dataclass(frozen=True, order=True)
class RandomAccessPoint:
    """Times of one packet, sorted by the first."""

    time: int
    """When its frame is shown, in units of the stream's time base."""
    seek_time: int
    """When it is decoded: what to seek to, for transport streams are searched by it and others end up no later."""


class RandomAccessFinder:
    """Whether a packet of one stream is a random access point.

    The flag for key frames is not enough: H.264 sets it also at recovery points, where frames refer to earlier ones.
    """

    def __init__(self, context: CodecContext | None) -> None:
        """`context`: of the stream's decoder; None: there is none, and no random access point."""
        self._codec = "" if context is None else context.codec.canonical_name
        self._every = context is not None and context.codec.intra_only
        self._length_bytes = _find_length_bytes(self._codec, bytes((context and context.extradata) or b""))

    def __call__(self, packet: Packet) -> bool:
        """Whether a decoder can begin here; frames that are shown before this one are of no use then."""
        if not packet.is_keyframe:
            return False
        if self._every or self._codec in _KEYS_FORGET:
            return True
        content = bytes(packet)
        if self._codec in ("mpeg1video", "mpeg2video"):
            return content.startswith(_SEQUENCE_HEADER)
        if self._codec == "h264":
            kinds = (head & 0x1F for head in self._find_heads(content))
            return next((kind in _H264_IDR for kind in kinds if kind in _H264_SLICES), False)
        if self._codec == "hevc":
            kinds = (head >> 1 & 0x3F for head in self._find_heads(content))
            return next((kind in _H265_IRAP for kind in kinds if kind in _H265_SLICES), False)
        return False

    def _find_heads(self, content: bytes) -> Iterator[int]:
        """The first byte of each unit of H.264 or H.265."""
        if self._length_bytes is None:
            place = content.find(_START)
            while 0 <= place < len(content) - len(_START):
                yield content[place + len(_START)]
                place = content.find(_START, place + len(_START))
            return
        place = 0
        while place + self._length_bytes < len(content):
            length = int.from_bytes(content[place : place + self._length_bytes])
            place += self._length_bytes
            yield content[place]
            place += length


def _find_length_bytes(codec: str, head: bytes) -> int | None:
    """How many bytes say the length of a unit, as MP4 and Matroska have it; None: start codes stand between units."""
    place = {"h264": 4, "hevc": 21}.get(codec)
    if place is None or len(head) <= place or head.startswith(b"\0"):
        return None
    return (head[place] & 3) + 1
