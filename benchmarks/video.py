"""Measure how the work on a video is shared among its stages, and make the stills of docs/video.md.

    python benchmarks/video.py --model deployments/animevideo --frames 192 --backend torch --backend openvino
    python benchmarks/video.py --pages

Draws a clip that pans over one of scikit-image's photographs, encodes it as H.264, upscales it as `sr-deploy upscale
IN.mp4 OUT.mp4` does, and takes the times of the stages from its result. Before and after, frames go through the network
with nothing beside it: what the video takes beyond that is what decoding, converting and encoding cost. Writes
results/video.json and .md, the table of docs/video.md from them, and a still: left bicubic interpolation, right the
network. With `--out` elsewhere the page stays as it is. `--pages` measures nothing and writes the page again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from pages import describe_run, make_table, replace_table

from sr_deploy.files import write_text
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.resample import resample
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.video_job import VideoResult, upscale_video

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "video.md"
PICTURES = PAGE.parent / "pictures"
RATE = 24


@dataclass(frozen=True)
class VideoRow:
    """One backend on the clip."""

    backend: str
    frames: int
    duplicates: int
    """Of them, frames that repeat the one before and were not computed."""
    size: str
    """Of the frames, before and after."""
    seconds: float
    """Wall time of the whole job."""
    stages: dict[str, float]
    """Seconds that each stage worked, beside the others."""
    slowest: str
    """The stage that the others waited for."""
    alone_seconds: float
    """The frames that were computed through the network with nothing beside it: the mean of before and after."""

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
    """Seconds that a frame takes with nothing beside it."""
    upscaler(frames[0])
    started = time.perf_counter()
    for pixels in frames[:rounds]:
        upscaler(pixels)
    return (time.perf_counter() - started) / min(rounds, len(frames))


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
            duplicates=result.duplicates,
            size=f"{kind.width}x{kind.height} to {made.width}x{made.height}",
            seconds=result.seconds,
            stages=result.stages,
            slowest=result.slowest,
            alone_seconds=(before + after) / 2 * (result.frames - result.duplicates),
        )
    return row, result


def format_table(document: dict[str, Any]) -> str:
    """Each backend in a line, and what was measured where."""
    rows = []
    for row in document["videos"]:
        total = sum(row["stages"].values())
        shares = (f"{100 * row['stages'][name] / total:.1f} %" for name in ("decode", "inference", "encode"))
        pace, beyond = f"{row['frames'] / row['seconds']:.2f}", f"{100 * row['beyond']:.1f} %"
        rows.append((row["backend"], row["size"], pace, *shares, row["slowest"], beyond))
    header = "backend | size | frames/s | decode | inference | encode | limited by | beyond the network"
    frames = " and ".join(sorted({str(row["frames"]) for row in document["videos"]}))
    return "\n".join(
        [
            *make_table(header, rows, text=(0, 1, 6)),
            "",
            f"{document['model']}, {frames} frames, from H.264 to {document['codec']}; {document['machine']}; "
            f"{document['versions']}; {document['date']}; `{document['command']}`.",
            "",
        ]
    )


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
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backend", action="append", help="repeatable; torch if left out")
    parser.add_argument("--photograph", default="coffee", help="of scikit-image, to pan over")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=180)
    parser.add_argument("--codec", default="h264")
    parser.add_argument("--rounds", type=int, default=10, help="frames that are timed alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of video.json and .md")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder of the still")
    parser.add_argument("--pages", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    path = arguments.out / "video.json"
    if arguments.pages:
        write_pages(json.loads(path.read_text(encoding="utf-8")), arguments.out)
        return
    if arguments.model is None:
        parser.error("give --model, or --pages")
    document = {
        **describe_run("av", "torch", "openvino"),
        "model": arguments.model.stem,
        "codec": arguments.codec,
        "videos": [{**asdict(row), "beyond": row.beyond} for row in measure_all(arguments)],
    }
    write_text(path, json.dumps(document, indent=1) + "\n")
    write_pages(document, arguments.out)


def measure_all(arguments: argparse.Namespace) -> list[VideoRow]:
    """Each backend on the same clip; the still shows what the last of them made."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.mp4"
        write_clip(source, draw_frames(arguments.photograph, arguments.frames, arguments.width, arguments.height))
        for number, backend in enumerate(arguments.backend or ["torch"]):
            row, result = measure(arguments, backend, source, Path(name) / f"out-{number}.mp4")
            rows.append(row)
        make_still(source, result.target, arguments.frames // 2, arguments.pictures / "video-still.png")
    return rows


def write_pages(document: dict[str, Any], out: Path) -> None:
    """`video.md` beside the results; from results of this folder also the table of docs/video.md."""
    table = format_table(document)
    print(table)
    write_text(out / "video.md", f"# A video, stage by stage\n\nWritten by `benchmarks/video.py`.\n\n{table}")
    if out.resolve() == RESULTS.resolve():
        replace_table("stages", table, PAGE)


if __name__ == "__main__":
    main()
