"""Measure how the work on a video is shared among its stages, and make the stills of docs/video.md.

    python benchmarks/video.py --model deployments/animevideo --backend torch --backend openvino

Draws a clip that pans over one of scikit-image's photographs, encodes it as H.264, upscales it as `sr-deploy upscale
IN.mp4 OUT.mp4` does, and takes the times of the stages from its result. Before and after, frames go through the network
with nothing beside it: what the video takes beyond that is what decoding, converting and encoding cost. Writes
results/video.json and .md, and a still: left bicubic interpolation, right the network.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.resample import resample
from sr_deploy.measure.machine import describe_machine
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.job import VideoResult, upscale_video

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
RATE = 24


@dataclass(frozen=True)
class VideoRow:
    """One backend on the clip."""

    backend: str
    frames: int
    size: str
    """Of the frames, before and after."""
    seconds: float
    """Wall time of the whole job."""
    stages: dict[str, float]
    """Seconds that each stage worked, beside the others."""
    slowest: str
    """The stage that the others waited for."""
    alone_seconds: float
    """The same frames through the network with nothing beside it: the mean of before and after."""

    @property
    def beyond(self) -> float:
        """Time beyond the network, as a share of the network's."""
        return self.seconds / self.alone_seconds - 1


def draw_frames(name: str, count: int, width: int, height: int) -> list[NDArray[np.uint8]]:
    """A pan over a photograph of scikit-image at half its size, to and fro."""
    photograph = read_image(bundled_photographs()[name])
    half = resample(photograph, photograph.shape[1] // 2, photograph.shape[0] // 2, "bicubic")
    scale = max(1.0, (width + 40) / half.shape[1], (height + 20) / half.shape[0])
    large = resample(half, round(half.shape[1] * scale), round(half.shape[0] * scale), "bicubic")
    room_y, room_x = large.shape[0] - height, large.shape[1] - width
    frames = []
    for number in range(count):
        phase = 2 * np.pi * number / 96
        top, left = round(room_y * (0.5 + 0.5 * np.sin(phase))), round(room_x * (0.5 - 0.5 * np.cos(phase)))
        frames.append(np.ascontiguousarray(large[top : top + height, left : left + width], dtype=np.uint8))
    return frames


def write_clip(path: Path, frames: Sequence[NDArray[np.uint8]]) -> None:
    """H.264 as small files have it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_frame(path: Path, number: int) -> NDArray[np.uint8]:
    """One frame as RGB."""
    with av.open(str(path)) as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place == number:
                return np.asarray(frame.to_ndarray(format="rgb24"))
    raise SystemExit(f"{path} has no frame {number}")


def time_alone(upscaler: Upscaler, frames: Sequence[NDArray[np.uint8]], rounds: int) -> float:
    """Seconds that all frames take with nothing beside them; a few are timed."""
    upscaler(frames[0])
    started = time.perf_counter()
    for pixels in frames[:rounds]:
        upscaler(pixels)
    return (time.perf_counter() - started) / min(rounds, len(frames)) * len(frames)


def measure(arguments: argparse.Namespace, backend: str, source: Path, target: Path) -> tuple[VideoRow, VideoResult]:
    """One backend."""
    with av.open(str(source)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Upscaler(arguments.model, backend=backend) as upscaler:
        before = time_alone(upscaler, frames, arguments.rounds)
        result = upscale_video(upscaler, source, target, VideoSettings(codec=arguments.codec))
        after = time_alone(upscaler, frames, arguments.rounds)
        kind, made = result.info.kind, result.plan.kind
        row = VideoRow(
            backend=str(upscaler.spec),
            frames=result.frames,
            size=f"{kind.width}x{kind.height} to {made.width}x{made.height}",
            seconds=result.seconds,
            stages=result.stages,
            slowest=result.slowest,
            alone_seconds=(before + after) / 2,
        )
    return row, result


def format_page(document: dict[str, object], rows: Sequence[VideoRow]) -> str:
    """The results as a page."""
    lines = [
        "# A video, stage by stage",
        "",
        f"Written by `{document['command']}` on {document['date']}, on {document['machine']}; do not edit.",
        "",
        "| backend | frames | size | frames/s | decode | inference | encode | limited by | beyond the network |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        total = sum(row.stages.values())
        shares = " | ".join(f"{100 * row.stages[name] / total:.1f} %" for name in ("decode", "inference", "encode"))
        pace, beyond = f"{row.frames / row.seconds:.2f}", f"{100 * row.beyond:.1f} %"
        lines.append(f"| {row.backend} | {row.frames} | {row.size} | {pace} | {shares} | {row.slowest} | {beyond} |")
    return "\n".join(lines) + "\n"


def make_still(source: Path, target: Path, number: int, path: Path) -> None:
    """A piece of one frame: left bicubic interpolation, right the network."""
    before, after = read_frame(source, number), read_frame(target, number)
    height, width = after.shape[:2]
    bicubic = resample(before, width, height, "bicubic")
    rows, columns = slice(height // 4, height // 4 + 320), slice(width // 3, width // 3 + 320)
    write_image(path, np.ascontiguousarray(np.concatenate([bicubic[rows, columns], after[rows, columns]], axis=1)))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", action="append", help="repeatable; torch if left out")
    parser.add_argument("--photograph", default="coffee", help="of scikit-image, to pan over")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=180)
    parser.add_argument("--codec", default="h264")
    parser.add_argument("--rounds", type=int, default=10, help="frames that are timed alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of video.json and .md")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder of the still")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.mp4"
        write_clip(source, draw_frames(arguments.photograph, arguments.frames, arguments.width, arguments.height))
        rows = []
        for number, backend in enumerate(arguments.backend or ["torch"]):
            row, result = measure(arguments, backend, source, Path(name) / f"out-{number}.mp4")
            rows.append(row)
            make_still(source, result.target, arguments.frames // 2, arguments.pictures / "video-still.png")
    document: dict[str, object] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": shlex.join(
            ["python", "benchmarks/video.py"]
            + [arguments.model.name if word == str(arguments.model) else word for word in sys.argv[1:]]
        ),
        "machine": describe_machine().title(),
        "model": arguments.model.name,
        "videos": [{**asdict(row), "beyond": row.beyond} for row in rows],
    }
    page = format_page(document, rows)
    print(page)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "video.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "video.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
