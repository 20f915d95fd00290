"""One point of a cost curve, in a process of its own, so that its peak memory is its own too.

    python benchmarks/cost_points.py SERIES SIZE FOLDER              # measure it; one line of JSON
    python benchmarks/cost_points.py SERIES SIZE FOLDER --prepare    # make the files that it reads, once

`cost_curves.py` starts these processes and says what the series are.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.graph.read import describe_graph_cost, describe_layers, read_graph
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.measure.timer import resident_mib, time_call, time_turn
from sr_deploy.model import Model, open_model
from sr_deploy.runners import open_runner
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.folder_job import FolderProgress, open_folder_job
from sr_deploy.upscale.folder_journal import open_journal, stamp_of
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings, upscale_file
from sr_deploy.upscale.memory import estimate_bytes_per_pixel
from sr_deploy.upscale.output_naming import plan_folder
from sr_deploy.upscale.stream import stream_file

NETWORK = "small-x2"
"""Ships with sr-deploy, so that anybody can measure the same."""
CHANNELS = 3
TILE = 256
BATCH_SIDE, TILES_SIDE, BLOCKS_SIDE, PICTURE_SIDE = 128, 512, 64, 16
FRAME_HEIGHT, FRAME_WIDTH = 64, 96
MADE_BY = "cost curves"
_ARCHITECTURES = {
    "compact": ArchSpec(architecture="compact", scale=2, features=8, blocks=1),
    "rrdbnet": ArchSpec(architecture="rrdbnet", scale=4, features=8, blocks=1, growth=4),
}
_TURN_SECONDS, _MOST_CALLS = 0.3, 20
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Prepared:
    """What is measured, and what is predicted of it before."""

    call: Callable[[], object]
    """Does the work once; may be called again."""
    x: float
    """Where the point stands on its curve."""
    flops: float | None = None
    """Operations of its convolutions, two for each multiply-add, from the graph and the plan of the tiles."""
    predicted_mib: float | None = None
    """Memory that it takes, from `upscale/memory.py`."""


@dataclass(frozen=True)
class CostPoint:
    """What a process measured."""

    x: float
    """As in `Prepared`."""
    seconds: list[float]
    """Of each call."""
    mib: float
    """Peak memory beyond what the process held before the first call."""
    flops: float | None
    """As in `Prepared`."""
    predicted_mib: float | None
    """As in `Prepared`."""


def measure_point(prepared: Prepared) -> CostPoint:
    """Call once, and again while a third of a second lasts; the first call counts only where there is no other."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5", encoding="ascii")  # Linux forgets the peak: what came before is not part of it
    before = resident_mib("now")
    first = time_call(prepared.call)
    calls = min(int(_TURN_SECONDS / max(first, 1e-6)), _MOST_CALLS)
    seconds = time_turn(prepared.call, calls, primed=False) if calls else [first]
    mib = max(resident_mib("peak") - before, 0.0)  # the system counts pages in lots
    return CostPoint(prepared.x, seconds, mib, prepared.flops, prepared.predicted_mib)


def repeat_photograph(height: int, width: int) -> NDArray[np.uint8]:
    """A photograph of scikit-image, repeated until it fills a picture of that size."""
    photograph = read_image(bundled_photographs()["chelsea"])
    rows, columns = (np.arange(side) % most for side, most in zip((height, width), photograph.shape, strict=False))
    return np.ascontiguousarray(photograph[rows][:, columns])


def prepare_picture(side: int, folder: Path) -> None:
    """A square picture as a file."""
    write_image(folder / f"picture-{side}.png", repeat_photograph(side, side))


def _predict(upscaler: Upscaler, model: Model, height: int, width: int, whole: bool) -> tuple[float, float]:
    """Operations and MiB of a picture: from the graph, the plan of its tiles, and the sizes of the pictures held."""
    plan, scale = upscaler.plan(height, width), model.scale
    window = plan.window_height * plan.window_width
    flops = describe_graph_cost(model.graph_path("fp32")).flops_per_input_pixel or math.nan
    held = CHANNELS * scale**2 * (height * width if whole else plan.window_height * width)
    needed = (estimate_bytes_per_pixel(model) or math.nan) * window + held
    return flops * plan.count * window, needed / 2**20


def upscale_picture(backend: str, side: int, folder: Path, *, tile: int = TILE) -> Prepared:
    """A square picture in memory, in tiles."""
    model = open_model(NETWORK)
    upscaler = Upscaler(model, backend=backend, tile=tile, device="cpu")
    picture = repeat_photograph(side, side)
    return Prepared(lambda: upscaler(picture), side**2, *_predict(upscaler, model, side, side, whole=True))


def cut_picture(backend: str, tile: int, folder: Path) -> Prepared:
    """The same picture in tiles of that core."""
    prepared = upscale_picture(backend, TILES_SIDE, folder, tile=tile)
    tiles = Upscaler(NETWORK, backend=backend, tile=tile, device="cpu").plan(TILES_SIDE, TILES_SIDE).count
    return replace(prepared, x=tiles)


def upscale_picture_file(how: str, side: int, folder: Path) -> Prepared:
    """From file to file, as a whole or row by row (`stream`)."""
    model = open_model(NETWORK)
    upscaler = Upscaler(model, backend="onnxruntime:fp32", tile=TILE, device="cpu")
    call = stream_file if how == "stream" else upscale_file
    source, target = folder / f"picture-{side}.png", folder / f"{how}-{side}.png"
    predicted = _predict(upscaler, model, side, side, whole=how != "stream")
    return Prepared(lambda: call(upscaler, source, target), side**2, *predicted)


def infer_batch(backend: str, size: int, folder: Path) -> Prepared:
    """A batch through the network alone."""
    model = open_model(NETWORK)
    runner = open_runner(model, backend, device="cpu")
    lr_NCHW = np.random.default_rng(0).random((size, CHANNELS, BATCH_SIDE, BATCH_SIDE), np.float32)
    pixels = size * BATCH_SIDE**2
    flops = (describe_graph_cost(model.graph_path("fp32")).flops_per_input_pixel or math.nan) * pixels
    needed = (estimate_bytes_per_pixel(model) or math.nan) * pixels / 2**20
    return Prepared(lambda: runner.infer(lr_NCHW), size, flops, needed)


def _network_files(architecture: str, blocks: int, folder: Path) -> tuple[Path, Path]:
    return folder / f"{architecture}-{blocks}.safetensors", folder / f"{architecture}-{blocks}.onnx"


def prepare_network(architecture: str, blocks: int, folder: Path) -> None:
    """A narrow network of that depth with random weights, as a checkpoint and as a graph."""
    import torch

    from sr_deploy.arch.registry import build_network
    from sr_deploy.arch.weights import save_generator

    spec = _ARCHITECTURES[architecture].model_copy(update={"blocks": blocks})
    torch.manual_seed(0)
    network = build_network(spec)
    checkpoint, graph = _network_files(architecture, blocks, folder)
    save_generator(checkpoint, network.state_dict(), spec)
    _export(checkpoint, graph)


def _export(checkpoint: Path, graph: Path) -> None:
    from sr_deploy.export.onnx_export import export_network_to_onnx
    from sr_deploy.export.write import rewrite_graph_file

    model = open_model(checkpoint)
    assert model.arch is not None
    export_network_to_onnx(model.load_network(), model.arch, graph, "0" * 64)
    rewrite_graph_file(graph)


def _open(graph: Path) -> None:
    graph.touch()  # or what was read of it before would be remembered
    open_runner(open_model(graph), "onnxruntime:fp32", device="cpu").close()


def _analyze(graph: Path) -> None:
    """What `verify` and `info` ask of a graph: input and output, cost, receptive field, and each of its layers."""
    graph.touch()
    read_graph(graph)
    describe_graph_cost(graph)
    describe_layers(graph, (1, BLOCKS_SIDE, BLOCKS_SIDE))


def process_network(what: str, blocks: int, folder: Path) -> Prepared:
    """Something done to a deep network; `what` is architecture and task, as in `compact export`."""
    from sr_deploy.export.fp16_plan import plan_graph

    architecture, _, task = what.partition(" ")
    checkpoint, graph = _network_files(architecture, blocks, folder)
    scale = _ARCHITECTURES[architecture].scale
    if task == "infer":
        runner = open_runner(open_model(graph), "onnxruntime:fp32", device="cpu")
        lr_NCHW = np.random.default_rng(0).random((1, CHANNELS, BLOCKS_SIDE, BLOCKS_SIDE), np.float32)
        flops = sum(layer.flops for layer in describe_layers(graph, (1, BLOCKS_SIDE, BLOCKS_SIDE)))
        return Prepared(lambda: runner.infer(lr_NCHW), blocks, flops)
    calls: dict[str, Callable[[], object]] = {
        "export": lambda: _export(checkpoint, folder / f"again-{graph.name}"),
        "open checkpoint": lambda: open_model(checkpoint).load_network(),
        "open": lambda: _open(graph),
        "analyze": lambda: _analyze(graph),
        "plan FP16": lambda: plan_graph(graph, CHANNELS, scale),
    }
    return Prepared(calls[task], blocks)


def prepare_film(frames: int, folder: Path) -> None:
    """A film of small frames, none of which repeats the one before."""
    from video import write_clip

    photograph = read_image(bundled_photographs()["coffee"])
    rolled = (np.roll(photograph, -3 * number, axis=1) for number in range(frames))
    write_clip(
        folder / f"film-{frames}.mp4", [np.ascontiguousarray(one[:FRAME_HEIGHT, :FRAME_WIDTH]) for one in rolled]
    )


def upscale_film(backend: str, frames: int, folder: Path) -> Prepared:
    """A film from file to file."""
    from sr_deploy.upscale.video.encoders import VideoSettings
    from sr_deploy.upscale.video.video_job import upscale_video

    model = open_model(NETWORK)
    upscaler = Upscaler(model, backend=backend, device="cpu")
    flops, _ = _predict(upscaler, model, FRAME_HEIGHT, FRAME_WIDTH, whole=True)
    targets = (Path(tempfile.mkdtemp(dir=folder)) / f"film-{number}.mp4" for number in itertools.count())
    source, settings = folder / f"film-{frames}.mp4", VideoSettings(codec="h264")
    return Prepared(lambda: upscale_video(upscaler, source, next(targets), settings), frames, flops * frames)


def _folders(count: int, folder: Path, kind: str) -> tuple[Path, Path]:
    return folder / f"{kind}-{count}" / "in", folder / f"{kind}-{count}" / "out"


def prepare_files(kind: str, count: int, folder: Path) -> None:
    """Tiny pictures, or empty stand-ins; for `finished` with a result and its line in the record for each of them."""
    source, target = _folders(count, folder, kind)
    source.mkdir(parents=True)
    target.mkdir()
    piece = repeat_photograph(PICTURE_SIDE, PICTURE_SIDE)
    for number in range(count):
        path = source / f"{number:06}.png"
        write_image(path, piece) if kind == "real" else path.touch()
    if kind == "finished":
        with open_journal(target) as record:
            for item in plan_folder(source, target, None):
                item.target.touch()
                stamp = stamp_of(item.source)
                assert stamp is not None
                record.finish(item.name, item.target, "0" * 64, stamp, MADE_BY)


def process_files(kind: str, count: int, folder: Path) -> Prepared:
    """A folder: planned until the first picture would be computed, or upscaled where the pictures are real."""
    source, target = _folders(count, folder, kind)
    if kind == "real":
        model = open_model(NETWORK)
        upscaler = Upscaler(model, backend="onnxruntime:fp32", device="cpu")
        flops, _ = _predict(upscaler, model, PICTURE_SIDE, PICTURE_SIDE, whole=True)

        def upscale() -> None:
            result = upscale_folder(upscaler, source, Path(tempfile.mkdtemp(dir=folder)))
            assert len(result.done) == count, result.failures[:1]

        return Prepared(upscale, count, flops * count)

    def plan() -> None:
        with open_folder_job(source, target, FileSettings(), None, MADE_BY) as job:
            assert len(job.items) == (0 if kind == "finished" else count)
            if job.items:
                FolderProgress(job.items, lambda _: None).show(0, 0.0)

    return Prepared(plan, count)


def main(words: Sequence[str] | None = None) -> None:
    """As the command line says."""
    from cost_curves import find_series

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", help="as in pixels/stream")
    parser.add_argument("size", type=int)
    parser.add_argument("folder", type=Path, help="of the files that are read and written")
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args(words)
    series = find_series(options.series)
    if not options.prepare:
        print(json.dumps(asdict(measure_point(series.make(options.size, options.folder)))))
    elif series.prepare is not None:
        series.prepare(options.size, options.folder)


if __name__ == "__main__":
    main()
