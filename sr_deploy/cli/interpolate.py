"""`sr-deploy interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sr_deploy.cli.options import read_number
from sr_deploy.cli.output import JsonOption, Output


def interpolate(
    a: Annotated[Path, typer.Argument(metavar="A", help="The first network: checkpoint, bundle or run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The second one, of the same architecture.")],
    *,
    alpha: Annotated[
        float,
        typer.Option(parser=read_number(0, 1), metavar="X", help="Share of B, from 0 (A itself) to 1 (B itself)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The .safetensors file to write. Left out: A+B-alphaX.safetensors in this folder."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Blend two networks of one architecture, weight by weight: (1 - alpha) * A + alpha * B.

    The result is a checkpoint that every command takes.
    """
    from sr_deploy.train.interpolate import interpolate_models

    output = Output(as_json)
    result = interpolate_models(a, b, alpha=alpha, out=out)
    for share, file, digest in zip((1 - alpha, alpha), result.sources, result.source_sha256, strict=True):
        output.show(f"{share:g} of {file} ({digest[:12]})")
    output.show(f"{result.path}: {result.arch.title()}")
    output.finish(
        {
            "path": str(result.path),
            "sha256": result.sha256,
            "arch": result.arch.model_dump(mode="json"),
            "alpha": alpha,
            "sources": [
                {"file": str(file), "sha256": digest}
                for file, digest in zip(result.sources, result.source_sha256, strict=True)
            ],
        }
    )
