"""`sr-deploy evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.default_model import find_default_model
from sr_deploy.cli.options import BackendOption, HostCodeOption, TileOption, TrustEngineOption, read_trust
from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.evaluation.evaluate import Evaluation
    from sr_deploy.measure.quality import Scores

FIGURES = ("PSNR-Y dB", "gain dB", "SSIM-Y", "PSNR-RGB dB", "SSIM-RGB")
"""Columns of `score_cells`."""


def evaluate(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Checkpoint, ONNX file, bundle, run or engine. Left out: the newest bundle in deployments/, else the "
            "newest run in runs/."
        ),
    ] = None,
    *,
    hr: Annotated[Path, typer.Option(metavar="DIR", help="Originals to compare with, searched recursively.")],
    lr: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Their low-resolution pictures, of the same names or with marks such as _LR or x4; may be the same "
            "folder. Left out: made of the originals by the papers' bicubic.",
        ),
    ] = None,
    backend: BackendOption = "auto",
    tile: TileOption = None,
    niqe: Annotated[bool, typer.Option(help="Whether to compute NIQE, which needs no original.")] = True,
    lpips: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BACKBONE LINEAR",
            help="Compute LPIPS with two weight files of yours: torchvision's AlexNet or VGG16, and LPIPS v0.1's "
            "alex.pth or vgg.pth. Not validated here.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for evaluation.json and worst-crops.png. Left out: neither is written."
        ),
    ] = None,
    trust_engine: TrustEngineOption = False,
    engine_host_code: HostCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """PSNR, SSIM and NIQE on a test set by the papers' protocol, for each picture and in all, beside bicubic's."""
    from sr_deploy.evaluation.evaluate import CROPS_NAME, EVALUATION_NAME, evaluate_model
    from sr_deploy.model import open_model

    output = Output(as_json)
    opened = open_model(model or find_default_model("MODEL"), read_trust(trust_engine, engine_host_code))
    with output.progress("evaluating") as on_progress:
        evaluated = evaluate_model(
            opened,
            hr,
            lr,
            backend=backend,
            tile=tile,
            with_niqe=niqe,
            lpips=lpips,
            on_progress=on_progress,
        )
    evaluation = evaluated.evaluation
    if out is not None:
        evaluated.write(out)
    output.show(_make_table(evaluation))
    output.show(f"{evaluation.model} on {evaluation.backend} {evaluation.backend_version}, {evaluation.device}")
    output.show(f"low resolution: {evaluation.lr or 'made of the originals by bicubic'}")
    output.show(f"{evaluation.scale} pixels left out at each border; NIQE and LPIPS: lower is better")
    for note in evaluation.notes:
        output.show(note)
    if out is not None:
        output.show(f"written: {out / EVALUATION_NAME}, {out / CROPS_NAME}")
    output.finish(evaluation)


def _make_table(evaluation: Evaluation) -> Table:
    from rich.table import Table

    has_niqe = any(picture.model.niqe is not None for picture in evaluation.pictures)
    has_lpips = evaluation.mean_model.lpips is not None
    table = Table(title=f"x{evaluation.scale}: network / bicubic{' / original' if has_niqe else ''}")
    table.add_column("picture")
    for name in (*FIGURES, *(["NIQE"] if has_niqe else []), *(["LPIPS"] if has_lpips else [])):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(one.name, one.model, one.bicubic, one.original_niqe) for one in evaluation.pictures]
    mean = ("mean", evaluation.mean_model, evaluation.mean_bicubic, evaluation.mean_original_niqe)
    for row in (*rows, mean):
        name, model, bicubic, original_niqe = row
        cells = score_cells(model, bicubic)
        if has_niqe:
            cells.append(join_figures([model.niqe, bicubic.niqe, original_niqe], 2))
        if has_lpips:
            cells.append(join_figures([model.lpips, bicubic.lpips], 4))
        table.add_row(name, *cells, end_section=row is rows[-1])
    return table


def score_cells(model: Scores, bicubic: Scores) -> list[str]:
    """`FIGURES` of a picture: network / bicubic."""
    return [
        join_figures([model.psnr_y, bicubic.psnr_y], 2),
        f"{model.psnr_y - bicubic.psnr_y:+.2f}",
        join_figures([model.ssim_y, bicubic.ssim_y], 4),
        join_figures([model.psnr_rgb, bicubic.psnr_rgb], 2),
        join_figures([model.ssim_rgb, bicubic.ssim_rgb], 4),
    ]


def join_figures(values: Sequence[float | None], decimals: int) -> str:
    """As in `30.10 / 29.05`; `-` stands for None."""
    return " / ".join("-" if value is None else f"{value:.{decimals}f}" for value in values)
