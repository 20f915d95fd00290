"""`sr-deploy upscale`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sr_deploy.cli.default_model import find_upscaling_model
from sr_deploy.cli.options import (
    BackendOption,
    BatchOption,
    HostCodeOption,
    TileOption,
    TrustEngineOption,
    read_number,
    read_trust,
)
from sr_deploy.cli.output import JsonOption, Output
from sr_deploy.cli.upscale_report import (
    OpenedNetwork,
    describe_file,
    describe_remarks,
    file_document,
    folder_document,
    network_document,
    show_folder,
    show_network,
)
from sr_deploy.cli.video import (
    CodecOption,
    CrfOption,
    EncoderOption,
    Network,
    PixelFormatOption,
    SegmentOption,
    SizeOption,
    VideoOptions,
    is_stream,
    is_video,
    upscale_one_video,
    upscale_raw_frames,
)
from sr_deploy.imaging.formats import BY_ROWS, WRITTEN, join

if TYPE_CHECKING:
    from sr_deploy.bundle.trust import EngineTrust
    from sr_deploy.upscale.folder import FolderResult
    from sr_deploy.upscale.image import Upscaler
    from sr_deploy.upscale.image_file import FileSettings

    UpscaleFolder = Callable[..., FolderResult]

_INTERRUPTED = 130
_QUALITIES = join((f"{form.quality} for {form.name}" for form in WRITTEN if form.quality is not None), "and")


def upscale(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A picture, a video, a folder of pictures, or -: raw frames.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help=f"Where the result goes; {join(form.suffixes[0] for form in WRITTEN)} say the format of a picture, "
            ".mkv, .mp4, .m4v, .mov or .webm that of a video. For a folder, a folder; for raw frames, -.",
        ),
    ],
    *,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint, ONNX file, bundle, run or engine, or small-x2, which ships with sr-deploy. Left out: the "
            "newest bundle in deployments/, else the newest run in runs/, else small-x2."
        ),
    ] = None,
    backend: BackendOption = "auto",
    tile: TileOption = None,
    batch: BatchOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda:0; several, with commas, share the pictures of a folder or the frames of a video. Left "
            "out: a GPU where the backend has one."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Share a folder among the machines of a Ray cluster: HOST:PORT, auto for the one that this machine "
            "belongs to, or local for a cluster of this machine alone.",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            parser=read_number(0, 1e5),
            metavar="X",
            help="Output pixels per input pixel, as in 3 or 1.5: the network's result is resampled to it.",
        ),
    ] = None,
    alpha: Annotated[Literal["network", "bicubic"], typer.Option(help="How transparency is enlarged.")] = "network",
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help=f"Left out: {_QUALITIES}; others lose nothing."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"Format of all results of a folder: {join(form.suffixes[0][1:] for form in WRITTEN)}. Left out: that "
            "of each source.",
        ),
    ] = None,
    max_megapixels: Annotated[
        float,
        typer.Option(
            parser=read_number(1e-6, 1e9),
            metavar="X",
            help="Largest picture that is read, in megapixels, against decompression bombs.",
        ),
    ] = 200,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Read, compute and write row by row, with no more than some rows in memory; for "
            f"{join(form.name for form in BY_ROWS)} files, by the network's own scale.",
        ),
    ] = False,
    codec: CodecOption = None,
    crf: CrfOption = None,
    pixel_format: PixelFormatOption = None,
    encoder_option: EncoderOption = None,
    segment: SegmentOption = 120,
    size: SizeOption = None,
    trust_engine: TrustEngineOption = False,
    engine_host_code: HostCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Upscale a picture, a folder of pictures or a video, whole or in overlapping tiles.

    Depth, transparency, color profile, EXIF and resolution are kept as far as the format holds them. In a folder,
    results that are finished already are skipped, and pictures that cannot be read are named at the end. Of a video
    sound, subtitles, chapters and tags are copied; a job that ended early goes on when it is started again.
    """
    from sr_deploy.errors import InputError
    from sr_deploy.upscale.image_file import FileSettings

    output = Output(as_json)
    settings = FileSettings(scale, alpha, quality, round(max_megapixels * 1e6))
    trust = read_trust(trust_engine, engine_host_code)
    network = _Network(model, backend, tile, _split_devices(device), batch, trust)
    if ray is not None and not source.is_dir():
        raise InputError(f"--ray is for folders, and {source} is none; leave it out")
    if stream and (source.is_dir() or is_stream(source, target, as_json=as_json) or is_video(source, target)):
        raise InputError(f"--stream is for one picture, and {source} is none; leave it out")
    video = VideoOptions(scale, codec, crf, pixel_format, encoder_option or [], segment)
    if is_stream(source, target, as_json=as_json):
        video.refuse(source)
        if scale is not None:
            raise InputError("a stream is enlarged by the network's own scale; resample it behind the pipe")
        upscale_raw_frames(output, network.lend(output, to_stdout=False), file_format, size)
        return
    if is_video(source, target):
        if quality is not None or file_format is not None or size is not None:
            raise InputError("--quality, --format and --size are not for videos: see --crf, --codec and --scale")
        upscale_one_video(output, network.lend(output), source, target, video)
        return
    video.refuse(source)
    if source.is_dir():
        suffix = None if file_format is None else f".{file_format.lower().lstrip('.')}"
        _upscale_folder(output, network, source, target, settings, suffix=suffix, ray=ray)
    elif file_format is not None:
        raise InputError(f"--format is for folders; the ending of {target} says the format of one picture")
    else:
        _upscale_one(output, network, source, target, settings, stream=stream)


@dataclass(frozen=True)
class _Network:
    """What is to compute, as asked for."""

    model: Path | None
    backend: str
    tile: int | None
    devices: list[str]
    batch: int | None
    trust: EngineTrust

    def find(self, output: Output) -> Path:
        """Which one it is."""
        return self.model or find_upscaling_model()

    @contextmanager
    def open(self, output: Output) -> Iterator[tuple[OpenedNetwork, list[Upscaler]]]:
        """Load it on each device."""
        from sr_deploy.model import open_model
        from sr_deploy.upscale.devices import open_upscalers

        path = self.find(output)
        model = open_model(path, self.trust)
        opening = open_upscalers(model, self.devices, backend=self.backend, tile=self.tile, batch=self.batch)
        with opening as upscalers:
            first, devices = upscalers[0], [upscaler.spec.device for upscaler in upscalers]
            yield OpenedNetwork(path, first.spec, first.receptive_radius, devices), upscalers

    @contextmanager
    def open_for_folder(self, output: Output, ray: str | None) -> Iterator[tuple[OpenedNetwork, UpscaleFolder]]:
        """Load it here, or on the workers of a Ray cluster."""
        if ray is None:
            from sr_deploy.upscale.folder import upscale_folder

            with self.open(output) as (opened, upscalers):
                yield opened, partial(upscale_folder, upscalers, tile=self.tile)
            return
        from sr_deploy.upscale.fleet import open_fleet, upscale_folder_on_fleet
        from sr_deploy.upscale.ray_worker import WorkerConfig

        path = self.find(output)
        config = WorkerConfig(path, self.backend, self.tile, ",".join(self.devices) or None, self.batch, self.trust)
        with open_fleet(ray, config) as fleet:
            devices = [fleet.spec.device] * fleet.workers
            yield (
                OpenedNetwork(path, fleet.spec, fleet.receptive_radius, devices),
                partial(upscale_folder_on_fleet, fleet),
            )

    def lend(self, output: Output, *, to_stdout: bool = True) -> Network:
        """For videos and streams; `to_stdout`: say what computes, where stdout is not for frames."""

        @contextmanager
        def load() -> Iterator[tuple[dict[str, object], list[Upscaler]]]:
            with self.open(output) as (opened, upscalers):
                if to_stdout:
                    show_network(output, opened)
                yield network_document(opened), upscalers

        return Network(load, self.tile)


def _split_devices(names: str | None) -> list[str]:
    from sr_deploy.errors import InputError

    devices = [] if names is None else [name.strip() for name in names.split(",")]
    if not all(devices):
        raise InputError(f"--device takes names with a comma between them, as in cuda:0,cuda:1, not {names!r}")
    return devices


def _upscale_one(
    output: Output, network: _Network, source: Path, target: Path, settings: FileSettings, *, stream: bool
) -> None:
    from sr_deploy.errors import InputError
    from sr_deploy.imaging.row_writer import require_by_rows
    from sr_deploy.upscale.image_file import check_paths, check_settings, upscale_file
    from sr_deploy.upscale.stream import stream_file

    check_paths(source, target)
    check_settings(target, settings)
    if stream:
        require_by_rows(target)
    if len(network.devices) > 1:
        raise InputError(f"one device computes one picture; --device names {len(network.devices)}: give one of them")
    with network.open(output) as (opened, (upscaler,)):
        with output.progress(f"upscaling {source.name}") as on_progress:
            upscale = stream_file if stream else upscale_file
            result = upscale(upscaler, source, target, settings, on_progress=on_progress)
        show_network(output, opened)
        output.show(describe_file(result, opened.receptive_radius))
        for line in describe_remarks(result):
            output.show(line)
        output.finish({**network_document(opened), **file_document(result)})


def _upscale_folder(
    output: Output,
    network: _Network,
    source: Path,
    target: Path,
    settings: FileSettings,
    *,
    suffix: str | None,
    ray: str | None,
) -> None:
    from sr_deploy.stopping import stop_on_signals
    from sr_deploy.upscale.output_naming import plan_folder

    plan_folder(source, target, suffix)  # refuses what cannot end well before a network is loaded
    with network.open_for_folder(output, ray) as (opened, upscale_folder), stop_on_signals() as stop:
        show_network(output, opened)
        with output.progress(f"upscaling {source}") as on_progress:
            result = upscale_folder(source, target, settings, suffix=suffix, on_progress=on_progress, stop=stop)
        show_folder(output, target, result)
        output.finish({**network_document(opened), **folder_document(source, target, result)})
    if result.stopped:
        raise typer.Exit(_INTERRUPTED)
    if result.failures or result.left:
        raise typer.Exit(1)
