"""`sr-deploy upscale`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sr_deploy.cli.default_model import find_default_model
from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sr_deploy.upscale.files import FileSettings, UpscaledFile
    from sr_deploy.upscale.folder import FolderResult
    from sr_deploy.upscale.image import Upscaler

_INTERRUPTED = 130


def upscale(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture, or a folder of pictures.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Where the result goes; .png, .jpg, .webp, .tif or .avif say the format. For a folder, a folder.",
        ),
    ],
    *,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint, ONNX file, bundle, run or engine. Left out: the newest bundle in deployments/, else the "
            "newest run in runs/."
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, or NAME[:PRECISION] as in openvino:fp32; NAME alone means fp32.")
    ] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Side of a tile in input pixels, without overlap; 0: the whole picture at once. Left out: the whole "
            "picture if it is small, else what the overlap and the free memory suggest.",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Output pixels per input pixel, as in 3 or 1.5: the network's result is resampled to it."),
    ] = None,
    alpha: Annotated[Literal["network", "bicubic"], typer.Option(help="How transparency is enlarged.")] = "network",
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Of JPEG (95 if left out), WebP (95) and AVIF (90); others lose nothing."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of all results of a folder: png, jpg, webp, tif or avif. Left out: that of each source.",
        ),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.000001, help="Largest picture that is read, against decompression bombs.")
    ] = 200,
    as_json: JsonOption = False,
) -> None:
    """Upscale a picture or a folder of them, whole or in overlapping tiles.

    Depth, transparency, colour profile, EXIF and resolution are kept as far as the format holds them. In a folder,
    results that are finished already are skipped, and pictures that cannot be read are named at the end.
    """
    from sr_deploy.errors import InputError
    from sr_deploy.upscale.files import FileSettings

    output = Output(as_json)
    settings = FileSettings(scale, alpha, quality, round(max_megapixels * 1e6))
    if source.is_dir():
        suffix = None if file_format is None else f".{file_format.lower().lstrip('.')}"
        _upscale_folder(
            output,
            source=source,
            target=target,
            settings=settings,
            model=model,
            backend=backend,
            tile=tile,
            suffix=suffix,
        )
    elif file_format is not None:
        raise InputError(f"--format is for folders; the ending of {target} says the format of one picture")
    else:
        _upscale_one(output, source=source, target=target, settings=settings, model=model, backend=backend, tile=tile)


def _upscale_one(
    output: Output,
    *,
    source: Path,
    target: Path,
    settings: FileSettings,
    model: Path | None,
    backend: str,
    tile: int | None,
) -> None:
    from sr_deploy.upscale.files import check_paths, check_settings, upscale_file
    from sr_deploy.upscale.image import Upscaler

    check_paths(source, target)
    check_settings(target, settings)
    path = model or find_default_model("--model MODEL")
    with Upscaler(path, backend=backend, tile=tile) as upscaler:
        with output.progress(f"upscaling {source.name}", 1) as advance:
            result = upscale_file(upscaler, source, target, settings, advance)
        _show_upscaler(output, path, upscaler)
        output.show(_describe_file(result, upscaler))
        for line in _describe_remarks(result):
            output.show(line)
        output.finish({**_upscaler_document(path, upscaler), **_file_document(result, upscaler)})


def _upscale_folder(
    output: Output,
    *,
    source: Path,
    target: Path,
    settings: FileSettings,
    model: Path | None,
    backend: str,
    tile: int | None,
    suffix: str | None,
) -> None:
    from sr_deploy.stopping import stop_on_signals
    from sr_deploy.upscale.folder import upscale_folder
    from sr_deploy.upscale.image import Upscaler
    from sr_deploy.upscale.places import plan_folder

    plan_folder(source, target, suffix)  # refuses what cannot end well before a network is loaded
    path = model or find_default_model("--model MODEL")
    with Upscaler(path, backend=backend, tile=tile) as upscaler, stop_on_signals() as stop:
        _show_upscaler(output, path, upscaler)
        with output.progress(f"upscaling {source}", 1) as advance:
            result = upscale_folder(
                upscaler, source, target, settings, suffix=suffix, tile=tile, on_progress=advance, stop=stop
            )
        _show_folder(output, target, result)
        output.finish({**_upscaler_document(path, upscaler), **_folder_document(source, target, result, upscaler)})
    if result.stopped:
        raise typer.Exit(_INTERRUPTED)
    if result.failures or result.left:
        raise typer.Exit(1)


def _show_upscaler(output: Output, path: Path, upscaler: Upscaler) -> None:
    output.show(f"model    {path}")
    output.show(f"backend  {upscaler.spec} {upscaler.spec.version} on {upscaler.spec.device}")


def _show_folder(output: Output, target: Path, result: FolderResult) -> None:
    for file in result.done:
        for line in _describe_remarks(file):
            output.show(f"{file.target}: {line}")
    for failure in result.failures:
        output.log(f"failed: {failure.source}: {failure.reason}")
    counts = (
        (len(result.done), "written"),
        (len(result.skipped), "finished before"),
        (len(result.failures), "failed"),
        (len(result.left), "left"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count or what == "written")
    output.show(f"{target}: {told}, {result.seconds:.2f} s")
    if result.left:
        output.log("run the same command again to do the rest; what is finished is skipped")


def _upscaler_document(path: Path, upscaler: Upscaler) -> dict[str, object]:
    return {
        "model": str(path),
        "backend": str(upscaler.spec),
        "backend_version": upscaler.spec.version,
        "device": upscaler.spec.device,
        "scale": upscaler.spec.scale,
        "receptive_radius": upscaler.receptive_radius,
    }


def _file_document(result: UpscaledFile, upscaler: Upscaler) -> dict[str, object]:
    report = result.reports[0]
    return {
        "source": str(result.source),
        "target": str(result.target),
        "input": {"width": result.width, "height": result.height},
        "output": {"width": result.target_width, "height": result.target_height},
        "tiles": report.tiles,
        "halo": report.halo,
        "recomputed": result.recomputed,
        "halvings": sum(each.halvings for each in result.reports),
        "seam_db": report.seam_db,
        "losses": list(result.losses),
        "seconds": result.seconds,
    }


def _folder_document(source: Path, target: Path, result: FolderResult, upscaler: Upscaler) -> dict[str, object]:
    return {
        "source": str(source),
        "target": str(target),
        "written": [_file_document(file, upscaler) for file in result.done],
        "skipped": [str(path) for path in result.skipped],
        "failed": [{"source": str(failure.source), "reason": failure.reason} for failure in result.failures],
        "left": [str(path) for path in result.left],
        "stopped": result.stopped,
        "seconds": result.seconds,
    }


def _describe_file(result: UpscaledFile, upscaler: Upscaler) -> str:
    tiles = "whole" if result.reports[0].tiles == 1 else f"{result.reports[0].tiles} tiles {_describe_halo(upscaler)}"
    size = f"{result.width}x{result.height} to {result.target_width}x{result.target_height}"
    return f"{result.target}: {size}, {tiles}, {result.seconds:.2f} s"


def _describe_remarks(result: UpscaledFile) -> list[str]:
    """What did not go by itself: losses of the format, tiles computed again, memory, seams."""
    remarks = [f"note     {loss}" for loss in result.losses]
    if result.recomputed:
        remarks.append(f"guards   {result.recomputed} tiles were wrong and were computed again in FP32")
    halvings = sum(report.halvings for report in result.reports)
    if halvings:
        remarks.append(
            f"memory   ran out {halvings} times; tiles of at most {result.reports[-1].tile_limit} pixels fit"
        )
    for report in result.reports:
        if not report.seams_kept:
            remarks.append(
                f"seams    {report.seam_db:.1f} dB, below the {report.seam_budget_db:g} dB that are aimed at; take a "
                "larger --tile, or 0"
            )
    return remarks


def _describe_halo(upscaler: Upscaler) -> str:
    seen = upscaler.receptive_radius
    if seen is None:
        return f"with {upscaler.halo} pixels of overlap"
    if seen <= upscaler.halo:
        return f"with {upscaler.halo} pixels of overlap, all that the network sees"
    return f"with {upscaler.halo} pixels of overlap of the {seen} that the network sees"
