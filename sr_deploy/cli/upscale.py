"""`sr-deploy upscale`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.default_model import find_default_model
from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sr_deploy.upscale.image import Upscaler


def upscale(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The picture: 8-bit RGB (gray for a gray network).")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Where the result goes; .png, .jpg, .webp or .tif say the format.")
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
            "picture if it is small, else 256.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Upscale one picture, whole or in overlapping tiles.

    The overlap is as wide as the network sees, so that tiles leave no trace, but at most 40 pixels.
    """
    from sr_deploy.upscale.image import Upscaler, check_paths, upscale_file

    output = Output(as_json)
    check_paths(source, target)
    path = model or find_default_model("--model MODEL")
    with Upscaler(path, backend=backend, tile=tile) as upscaler:
        with output.progress(f"upscaling {source.name}", 1) as advance:
            result = upscale_file(upscaler, source, target, lambda done, total: advance(done / total))
        width, height = result.width * result.scale, result.height * result.scale
        tiles = "whole" if result.tiles == 1 else f"{result.tiles} tiles {_describe_halo(upscaler)}"
        output.show(f"model    {path}")
        output.show(f"backend  {upscaler.spec} {upscaler.spec.version} on {upscaler.spec.device}")
        output.show(f"{target}: {result.width}x{result.height} to {width}x{height}, {tiles}, {result.seconds:.2f} s")
        output.finish(
            {
                "model": str(path),
                "backend": str(upscaler.spec),
                "backend_version": upscaler.spec.version,
                "device": upscaler.spec.device,
                "source": str(source),
                "target": str(target),
                "scale": result.scale,
                "input": {"width": result.width, "height": result.height},
                "output": {"width": width, "height": height},
                "tiles": result.tiles,
                "halo": upscaler.halo if result.tiles > 1 else 0,
                "receptive_radius": upscaler.receptive_radius,
                "seconds": result.seconds,
            }
        )


def _describe_halo(upscaler: Upscaler) -> str:
    seen = upscaler.receptive_radius
    if seen is None:
        return f"with {upscaler.halo} pixels of overlap"
    if seen <= upscaler.halo:
        return f"with {upscaler.halo} pixels of overlap, all that the network sees"
    return f"with {upscaler.halo} pixels of overlap of the {seen} that the network sees"
