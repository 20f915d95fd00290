"""Measure what a folder of photographs costs beyond the network, and each codec by itself.

    python benchmarks/upscale_folder.py --model realesr-animevideov3.pth --backend torch --backend openvino

Makes 12-megapixel JPEGs of scikit-image's photographs, upscales the folder as `sr-deploy upscale IN_DIR OUT_DIR` does,
and counts the time in the runner. Now and then, when the threads beside it have come to rest, a window goes through the
runner a second time with nothing beside it, and the folder's clock stands still: the folder's time beyond that of as
many windows alone is what reading, tiling, checking and writing cost. Both are taken in turns, as a shared machine is
faster in one minute than in the next. These stages are measured one by one as well, and codecs on one of the results,
cut to the size of a source, all in processor time, which other processes disturb less than wall time. Writes
results/upscale_folder.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pages import describe_run, write_results

from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.decoded_image import DecodedImage, decode_image, write_decoded
from sr_deploy.imaging.resample import resample
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.guards import measure_statistics
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings
from sr_deploy.upscale.pixels import HostResult, to_window

RESULTS = Path(__file__).parent / "results"
_REPEATED = 10  # windows of each picture
_REST_SECONDS = 0.2  # in which the thread beside is done with the tile before
_CODECS = ((".jpg", None), (".jpg", 90), (".png", None), (".tif", None), (".webp", None), (".avif", None))


@dataclass(frozen=True)
class FolderRow:
    """One backend on the folder."""

    backend: str
    suffix: str
    """Format of the results."""
    pictures: int
    tiles: int
    """Windows that the network got, of all pictures."""
    window: str
    """Height and width of most of them."""
    folder_seconds: float
    """Wall time of the whole job."""
    runner_seconds: float
    """Of it, time in the runner, with reading and writing beside it."""
    alone_seconds: float
    """As many windows with nothing beside them, by the mean of those that were repeated."""
    alone_windows: int
    """How many were repeated."""

    @property
    def beyond(self) -> float:
        """Time beyond inference, as a share of inference."""
        return self.folder_seconds / self.alone_seconds - 1


@dataclass(frozen=True)
class CodecRow:
    """One way to write a picture."""

    suffix: str
    quality: int | None
    processor_ms_per_megapixel: float
    kilobytes_per_megapixel: float


@dataclass(frozen=True)
class StageRow:
    """One of the things that are done beside the network."""

    stage: str
    processor_ms: float
    """For one picture of the folder."""


class Stopwatch:
    """Stands before a runner's `infer`, notes shapes and times, and repeats some windows alone."""

    def __init__(self, upscaler: Upscaler, every: int) -> None:
        """Every so many windows one is repeated: not the first ones, beside which the picture before is written."""
        self._runner = upscaler._runner
        self._infer = self._runner.infer
        self._every = every
        self.seconds = 0.0
        self.paused = 0.0
        """Time that is no part of the job."""
        self.alone: list[float] = []
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self._runner.infer = self  # type: ignore[method-assign]

    def __call__(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the runner's `infer`."""
        started = time.perf_counter()
        sr_NCHW = self._infer(lr_NCHW)
        done = time.perf_counter()
        self.seconds += done - started
        self.shapes[lr_NCHW.shape] += 1
        if self.shapes.total() % self._every == 0:
            time.sleep(_REST_SECONDS)
            started = time.perf_counter()
            self._infer(lr_NCHW)
            self.alone.append(time.perf_counter() - started)
            self.paused += time.perf_counter() - done
        return sr_NCHW


def make_photographs(folder: Path, count: int, width: int, height: int) -> None:
    """Photographs enlarged to that size with the noise of a sensor, as JPEG of quality 92."""
    random = np.random.default_rng(0)
    for number, (name, path) in enumerate(sorted(bundled_photographs().items())[:count]):
        large = resample(read_image(path), width, height, "bicubic").astype(np.int16)
        for top in range(0, height, 256):  # noise by strips: a whole picture of it takes gigabytes
            strip = large[top : top + 256]
            strip += np.rint(random.normal(0, 2, strip.shape)).astype(np.int16)
        write_decoded(folder / f"{number}-{name}.jpg", DecodedImage(np.clip(large, 0, 255).astype(np.uint8)), 92)


def measure_folder(arguments: argparse.Namespace, backend: str, source: Path, target: Path) -> FolderRow:
    """One backend, one format."""
    with Upscaler(arguments.model, backend=backend, tile=arguments.tile) as upscaler:
        warm = decode_image(sorted(source.iterdir())[0])
        upscaler(warm.pixels[: arguments.warm, : arguments.warm])
        plan = upscaler.plan(warm.height, warm.width)
        watch = Stopwatch(upscaler, max(plan.count // _REPEATED, 2))
        started = time.perf_counter()
        result = upscale_folder(upscaler, source, target, FileSettings(), suffix=arguments.format)
        seconds = time.perf_counter() - started - watch.paused
        if result.failures:
            raise SystemExit(f"{result.failures[0].source}: {result.failures[0].reason}")
        most = watch.shapes.most_common(1)[0][0]
        return FolderRow(
            backend=str(upscaler.spec),
            suffix=arguments.format or ".jpg",
            pictures=len(result.done),
            tiles=watch.shapes.total(),
            window=f"{most[2]}x{most[3]}",
            folder_seconds=seconds,
            runner_seconds=watch.seconds,
            alone_seconds=float(np.mean(watch.alone)) * watch.shapes.total(),
            alone_windows=len(watch.alone),
        )


def measure_stages(arguments: argparse.Namespace, source: Path, folder: Path) -> list[StageRow]:
    """What is done to a picture beside the network, with tiles of 256 and a result that only repeats pixels."""
    path = sorted(source.iterdir())[0]
    picture = decode_image(path)
    halo, scale, core = 18, 4, 256
    window = picture.pixels[: core + 2 * halo, : core + 2 * halo]
    lr_NCHW = to_window(window, 3)
    used = (slice(halo * scale, -halo * scale),) * 2
    result = HostResult(lr_NCHW.repeat(scale, 2).repeat(scale, 3)).crop(*used)
    large = np.empty((core * scale, picture.width * scale, 3), np.uint8)
    whole = DecodedImage(resample(picture.pixels, picture.width * scale, picture.height * scale, "bicubic"))
    tiles = picture.width * picture.height / core**2
    inner = lr_NCHW[:, :, halo:-halo, halo:-halo]

    def write() -> None:
        write_decoded(folder / f"stage{arguments.format or '.jpg'}", whole)

    stages: list[tuple[str, Callable[[], object], float]] = [
        ("read and decode", lambda: decode_image(path), 1),
        ("cut windows, as numbers from 0 to 1", lambda: to_window(window, 3), 2 * tiles),  # again for the guards
        ("guards, of the input", lambda: measure_statistics(inner), tiles),
        ("guards, of the result", lambda: result.measure(scale), tiles),
        ("round into the picture", lambda: result.write(large[:, : core * scale]), tiles),
        (f"encode and write {arguments.format or '.jpg'}", write, 1),
    ]
    return [
        StageRow(stage, 1000 * times * time_processor(call, 1 if times == 1 else arguments.rounds))
        for stage, call, times in stages
    ]


def time_processor(call: Callable[[], object], rounds: int) -> float:
    """Mean processor time of a call in seconds, after one that is not counted."""
    call()
    started = time.process_time()
    for _ in range(rounds):
        call()
    return (time.process_time() - started) / rounds


def measure_codecs(picture: DecodedImage, folder: Path) -> list[CodecRow]:
    """Every format."""
    rows = []
    megapixels = picture.width * picture.height / 1e6
    for suffix, quality in _CODECS:
        path = folder / f"codec{suffix}"
        taken = time_processor(partial(write_decoded, path, picture, quality), 1)
        rows.append(CodecRow(suffix, quality, 1000 * taken / megapixels, path.stat().st_size / 1000 / megapixels))
    return rows


def format_tables(
    document: dict[str, object], rows: Sequence[FolderRow], stages: Sequence[StageRow], codecs: Sequence[CodecRow]
) -> str:
    """The results as a page."""
    lines = [
        f"# A folder of photographs, {document['size']}",
        "",
        f"Written by `{document['command']}` on {document['date']}, on {document['machine']}; do not edit.",
        "",
        "| backend | results | pictures | tiles | window | folder, s | in the runner, s | alone, s | beyond |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.backend} | {row.suffix} | {row.pictures} | {row.tiles} | {row.window} | {row.folder_seconds:.1f} | "
        f"{row.runner_seconds:.1f} | {row.alone_seconds:.1f} | {100 * row.beyond:.1f} % |"
        for row in rows
    ]
    lines += ["", "| beside the network, for each picture | processor time, ms |", "|---|---|"]
    lines += [f"| {row.stage} | {row.processor_ms:.0f} |" for row in stages]
    lines += [f"| together | {sum(row.processor_ms for row in stages):.0f} |"]
    lines += ["", "| format | quality | processor time, ms per megapixel | kB per megapixel |", "|---|---|---|---|"]
    lines += [
        f"| {row.suffix} | {row.quality or 'as it is'} | {row.processor_ms_per_megapixel:.1f} | "
        f"{row.kilobytes_per_megapixel:.0f} |"
        for row in codecs
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", action="append", help="repeatable; torch if left out")
    parser.add_argument("--format", help="of the results, as in .png; that of the sources if left out")
    parser.add_argument("--count", type=int, default=3, help="pictures, 9 at most")
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--rounds", type=int, default=10, help="calls of each stage that is timed by itself")
    parser.add_argument("--warm", type=int, default=600, help="side of what is upscaled before anything is timed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of upscale_folder.json and .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photographs(folder / "in", arguments.count, arguments.width, arguments.height)
        rows = [
            measure_folder(arguments, backend, folder / "in", folder / f"out-{number}")
            for number, backend in enumerate(arguments.backend or ["torch"])
        ]
        stages = measure_stages(arguments, folder / "in", folder)
        first = sorted((folder / "out-0").glob("*.*g"))[0]
        large = decode_image(first, max_pixels=None)
        piece = np.ascontiguousarray(large.pixels[: arguments.height, : arguments.width])
        codecs = measure_codecs(DecodedImage(piece), folder)
    document: dict[str, object] = {
        **describe_run(),
        "model": arguments.model.name,
        "size": f"{arguments.width}x{arguments.height}",
        "folders": [{**asdict(row), "beyond": row.beyond} for row in rows],
        "stages": [asdict(row) for row in stages],
        "codecs": [asdict(row) for row in codecs],
    }
    page = format_tables(document, rows, stages, codecs)
    print(page)
    write_results(arguments.out / "upscale_folder", document, page)


if __name__ == "__main__":
    main()
