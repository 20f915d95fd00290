"""Clips that PyAV draws, and a network that repeats pixels, so that every result is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.pixel_formats import view_planes

HEIGHT, WIDTH, FRAMES = 32, 64, 12
SAMPLE_RATE = 48000
ENCODERS: dict[str, tuple[tuple[str, str], ...]] = {
    "libx264": (("qp", "0"), ("preset", "ultrafast")),
    "libx265": (("x265-params", "log-level=error:lossless=1"), ("preset", "ultrafast")),
    "libvpx-vp9": (("lossless", "1"), ("cpu-used", "8")),
}
"""Without loss, and fast."""


class NearestRunner(BaseRunner):
    """Repeats pixels; counts frames, and can do something at each."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", scale, 3))
        self.calls = 0
        self.at_call = lambda _number: None

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        self.at_call(self.calls)
        scale = self.spec.scale
        return np.repeat(np.repeat(lr_NCHW, scale, axis=2), scale, axis=3)

    def _release(self) -> None:
        pass


@pytest.fixture
def runner() -> NearestRunner:
    return NearestRunner()


@pytest.fixture
def upscaler(runner: NearestRunner) -> Iterator[Upscaler]:
    with Upscaler(runner, halo=0) as upscaler:
        yield upscaler


def _draw(number: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A picture that moves with its number."""
    y, x = np.mgrid[:height, :width]
    planes = [
        128 + 90 * np.sin(x / 9 + number / 3),
        128 + 90 * np.cos(y / 7 - number / 4),
        128 + 70 * np.sin((x + y) / 11),
    ]
    return np.rint(np.stack(planes, axis=-1)).astype(np.uint8)


def _encode_sound(container: Any, stream: Any, seconds: Fraction) -> None:
    """A tone that lasts as long."""
    samples = np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 20).astype(np.float32)[None] / 4
    for start in range(0, samples.shape[1], 960):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 960]), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _make_clip(
    path: Path,
    *,
    numbers: Sequence[int] = tuple(range(FRAMES)),
    size: tuple[int, int] = (HEIGHT, WIDTH),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 24),
    rate: Fraction = Fraction(24),
    options: Sequence[tuple[str, str]] | None = None,
    colors: tuple[int, int, int, int] = (2, 1, 2, 2),
    aspect: Fraction = Fraction(1),
    rotation: float | None = None,
    sound: str | None = None,
    subtitles: str | None = None,
    attachment: bool = False,
    tags: dict[str, str] | None = None,
    chapters: bool = False,
) -> Path:
    """Write a clip; `numbers` say which pictures, `colors` are matrix, range, primaries and transfer."""
    height, width = size
    times = range(len(numbers)) if times is None else times
    options = ENCODERS.get(codec, ()) if options is None else options
    matrix, color_range, primaries, transfer = colors
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate, options=dict(options))
        context = video.codec_context
        context.width, context.height, context.pix_fmt, context.time_base = width, height, pixel_format, time_base
        context.color_range, context.colorspace = color_range, matrix
        context.color_primaries, context.color_trc, context.sample_aspect_ratio = primaries, transfer, aspect
        video.time_base = time_base
        if rotation is not None:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound, rate=SAMPLE_RATE, layout="mono") if sound else None
        words = container.add_mux_stream(subtitles, time_base=Fraction(1, 1000)) if subtitles else None
        if attachment:
            container.add_attachment("font.ttf", "font/ttf", b"not quite a font")
        if words is not None:
            words.metadata["language"] = "fre"
        container.metadata.update(tags or {})
        if chapters:
            container.set_chapters(
                [
                    {"id": n, "start": 200 * n, "end": 200 * n + 200, "time_base": Fraction(1, 1000),
                     "metadata": {"title": f"part {n}"}}
                    for n in range(2)
                ]
            )  # fmt: skip
        for number, time in zip(numbers, times, strict=True):
            frame = av.VideoFrame.from_ndarray(_draw(number, height, width), format="rgb24")
            frame = frame.reformat(format=pixel_format, dst_color_range=color_range)
            frame.pts, frame.time_base = time, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            _encode_sound(container, audio, len(numbers) / rate)
        if words is not None:
            for place in range(2):
                packet = av.Packet(f"line {place}".encode())
                packet.stream, packet.time_base = words, Fraction(1, 1000)
                packet.pts = packet.dts = 100 + 150 * place
                packet.duration = 100
                container.mux(packet)
    return path


@pytest.fixture
def draw() -> Callable[..., NDArray[np.uint8]]:
    """Gives the picture of a number, height x width x 3."""
    return _draw


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Gives a clip of that file name, drawn as asked for."""
    return lambda name, **wishes: _make_clip(tmp_path / name, **wishes)


@pytest.fixture
def frames_of() -> Callable[[Path], list[Any]]:
    """Gives all frames of a file."""

    def read(path: Path) -> list[Any]:
        with av.open(str(path)) as container:
            return list(container.decode(video=0))

    return read


@pytest.fixture
def planes_of(frames_of: Callable[[Path], list[Any]]) -> Callable[[Path], list[list[NDArray[Any]]]]:
    """Gives the samples of each plane of each frame of a file."""
    return lambda path: [view_planes(frame) for frame in frames_of(path)]


@pytest.fixture
def packets_of() -> Callable[[Path, str], list[tuple[Fraction, bytes]]]:
    """Gives time and content of all packets of the first stream of a kind."""

    def read(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            stream = next(stream for stream in container.streams if stream.type == kind)
            return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]

    return read
