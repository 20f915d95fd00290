"""`sr-deploy train`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.train.loop import StepReport
    from sr_deploy.train.recipe import Recipe
    from sr_deploy.train.run import RunManifest, ValidationResult

_RUNS = Path("runs")


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a shipped recipe, or a TOML file.  [default: demo]", show_default=False),
    ] = None,
    *,
    data: Annotated[
        Path | None, typer.Option(help="Folder of images to train on, of any size, searched recursively.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the generator of this checkpoint, run or bundle."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run, or with that of --out.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder.  [default: runs/NAME, with a number if taken]", show_default=False),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or cuda:N.  [default: cuda if there is one]", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one value of the recipe; can be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network: by default the demo recipe, on photographs that are installed already."""
    from sr_deploy.errors import InputError
    from sr_deploy.train.run import find_last_checkpoint, find_newest_run, free_run_folder
    from sr_deploy.train.stopping import stop_on_signals

    output = Output(as_json)
    if resume and start_from is not None:
        raise InputError("--resume goes on with a run's own weights and --from starts a new run: give one of them")
    changes = list(overrides or ())
    if data is not None:
        changes.append(f"data.folder={json.dumps(str(data.resolve()))}")
    if resume:
        run = out or find_newest_run(_RUNS, with_checkpoint=False)
        chosen = _recipe_to_resume(recipe, run, changes)
        last = find_last_checkpoint(run)
        done = last[0] if last else 0
    else:
        chosen = _load_recipe(recipe or "demo", changes)
        run = out or free_run_folder(_RUNS, chosen.name)
        done = 0
    from sr_deploy.train import loop

    with (
        stop_on_signals() as stop,
        output.progress(f"training {chosen.name}", max(chosen.run.steps - done, 1)) as advance,
    ):
        manifest = loop.train(
            chosen,
            run,
            resume=resume,
            device=device,
            start_from=start_from,
            stop=stop,
            on_step=lambda report: advance(report.step - done, _describe_pace(report)),
            on_note=output.log,
        )
    _show_result(output, run, manifest)
    output.finish({"run": str(run), **manifest.model_dump(mode="json")})
    if manifest.status == "stopped":
        raise typer.Exit(130)


def _describe_pace(report: StepReport) -> str:
    if math.isnan(report.loss):
        return ""
    return f"loss {report.loss:.4f}, {report.steps_per_second:.1f} steps/s"


def _load_recipe(name: str, changes: list[str]) -> Recipe:
    from sr_deploy.train.recipe import load_recipe

    return load_recipe(name, changes)


def _recipe_to_resume(name: str | None, run: Path, changes: list[str]) -> Recipe:
    """The run's own recipe with `changes`, or the named one if a name was given."""
    from sr_deploy.train.recipe import load_recipe, read_run_recipe
    from sr_deploy.train.run import RECIPE_NAME, require_run

    require_run(run)
    return load_recipe(name, changes) if name else read_run_recipe(run / RECIPE_NAME, changes)


def _show_result(output: Output, run: Path, manifest: RunManifest) -> None:
    if manifest.status == "stopped":
        output.log(f"stopped at step {manifest.step} of {manifest.steps}; go on with: "
                   f"sr-deploy train --resume --out {run}")  # fmt: skip
        return
    if manifest.last_validation is not None:
        output.show(_build_table(manifest.last_validation))
    output.show(
        f"{run}: {manifest.step} steps in {manifest.seconds:.0f} s, {manifest.precision.title()}, on {manifest.device}"
        f"\nnewest checkpoint: {run / manifest.checkpoints[-1]}"
    )


def _build_table(result: ValidationResult) -> Table:
    from rich.table import Table

    from sr_deploy.train.run import PhotographScores

    table = Table(title=f"Held-out photographs after {result.step} steps: network / bicubic")
    table.add_column("photograph")
    for heading in ("PSNR-Y dB", "gain dB", "SSIM-Y", "PSNR-RGB dB", "SSIM-RGB"):
        table.add_column(heading, justify="right")
    mean = PhotographScores(name="mean", model=result.model, bicubic=result.bicubic)
    for row in (*result.photographs, mean):
        model, bicubic = row.model, row.bicubic
        table.add_row(
            row.name,
            f"{model.psnr_y:.2f} / {bicubic.psnr_y:.2f}",
            f"{model.psnr_y - bicubic.psnr_y:+.2f}",
            f"{model.ssim_y:.4f} / {bicubic.ssim_y:.4f}",
            f"{model.psnr_rgb:.2f} / {bicubic.psnr_rgb:.2f}",
            f"{model.ssim_rgb:.4f} / {bicubic.ssim_rgb:.4f}",
            end_section=row is result.photographs[-1],
        )
    return table
