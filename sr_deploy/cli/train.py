"""`sr-deploy train`."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.train.chain import Stage
    from sr_deploy.train.loop import StepReport
    from sr_deploy.train.processes import Processes
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
    qat: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Train this checkpoint, run or bundle for INT8; without a recipe by compact-qat or rrdb-lite-qat.",
        ),
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
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change one value of the recipe and of the stages before it that have the section; "
            "STAGE:SECTION.KEY=VALUE of one stage alone. Can be repeated.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network: by default the demo recipe, on photographs that are installed already.

    Recipes that start from the weights of another one train that first, unless its finished run is in runs/ already or
    --from gives the weights. Under torchrun, processes share each batch.
    """
    from sr_deploy.config import format_toml_value
    from sr_deploy.errors import InputError
    from sr_deploy.train.processes import join_processes
    from sr_deploy.train.run import find_newest_run, require_run

    given = [name for name, value in (("--resume", resume), ("--from", start_from), ("--qat", qat)) if value]
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(given)} were given: --resume goes on with a run's own weights, --from starts a new run "
            "from others, and --qat trains others for INT8; give one of them"
        )
    changes = list(overrides or ())
    if data is not None:
        changes += [f"data.folder={format_toml_value(str(data.resolve()))}", "data.source=[]"]

    from sr_deploy.train.chain import Stage
    from sr_deploy.train.networks import check_inputs

    def plan() -> tuple[list[Stage], Path | None]:
        """The stages, and what the first begins with."""
        if qat is not None:
            from sr_deploy.qat import plan_qat

            start = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="sr-deploy-qat-")), "start.safetensors")
            return [plan_qat(qat, start, recipe, changes, _RUNS, data=data, out=out)], start
        if not resume:
            return _plan(recipe or "demo", changes, out, alone=start_from is not None), start_from
        run = out or find_newest_run(_RUNS, with_checkpoint=False)
        require_run(run)
        return [Stage(_recipe_to_resume(recipe, run, changes), run, "resume")], None

    with contextlib.ExitStack() as held, join_processes(device) as processes:
        output = Output(as_json, silent=not processes.is_main)
        if not processes.is_main:  # the first process speaks for all
            logging.getLogger("sr_deploy").setLevel(logging.CRITICAL)
        stages, before = processes.broadcast(plan)
        for stage in stages:
            if stage.action != "take":
                check_inputs(stage.recipe, resume=stage.action == "resume")
        for stage in stages:
            run = stage.run
            if stage.note:
                output.log(stage.note)
            if stage.action == "take":
                before = run
                continue
            asked = [change.partition("=")[0].strip() for change in changes]
            manifest = _train_stage(stage, before, asked, device=device, processes=processes, output=output)
            before = run = run.with_name(manifest.name) if stage.numbered else run
            if manifest.status == "stopped":
                break
        if processes.is_main:  # it alone wrote the checkpoints that are spoken of
            _show_result(output, run, manifest)
        output.finish({"run": str(run), **manifest.model_dump(mode="json")})
    if manifest.status == "stopped":
        raise typer.Exit(130)


def _plan(name: str, changes: list[str], out: Path | None, *, alone: bool) -> list[Stage]:
    from sr_deploy.train.chain import plan_stages

    return plan_stages(name, changes, out.parent if out else _RUNS, alone=alone, out=out)


def _train_stage(
    stage: Stage,
    start_from: Path | None,
    changes: list[str],
    *,
    device: str | None,
    processes: Processes,
    output: Output,
) -> RunManifest:
    from sr_deploy.progress import Progress
    from sr_deploy.run_folder import find_last_checkpoint
    from sr_deploy.stopping import stop_on_signals
    from sr_deploy.train import loop

    resume = stage.action == "resume"
    last = find_last_checkpoint(stage.run) if resume else None
    done = last[0] if last else 0
    recipe = stage.recipe
    left = max(recipe.run.steps - done, 1)
    stop = threading.Event()
    with output.progress(f"training {recipe.name}") as on_progress:
        return loop.train(
            recipe,
            stage.run,
            resume=resume,
            device=device,
            start_from=None if resume else start_from,
            changes=changes,
            numbered=stage.numbered,
            processes=processes,
            stop=stop,
            listen=lambda: stop_on_signals(stop),
            on_step=lambda report: on_progress(Progress(_describe_pace(report), report.step - done, left, "steps")),
        )


def _describe_pace(report: StepReport) -> str:
    if math.isnan(report.loss):
        return ""
    return f"loss {report.loss:.4f}, {report.steps_per_second:.1f} steps/s"


def _recipe_to_resume(name: str | None, run: Path, changes: list[str]) -> Recipe:
    """The run's own recipe with `changes`, or the named one if a name was given."""
    from sr_deploy.run_folder import RECIPE_NAME
    from sr_deploy.train.recipe import load_recipe, read_run_recipe

    return load_recipe(name, changes) if name else read_run_recipe(run / RECIPE_NAME, changes)


def _show_result(output: Output, run: Path, manifest: RunManifest) -> None:
    if manifest.status == "stopped":
        output.log(f"stopped at step {manifest.step} of {manifest.steps}; go on with: "
                   f"sr-deploy train --resume --out {run}")  # fmt: skip
        return
    from sr_deploy.train.run import describe_best

    if manifest.last_validation is not None:
        output.show(_build_table(manifest.last_validation))
    output.show(
        f"{run}: {manifest.step} steps in {manifest.seconds:.0f} s, {manifest.precision.title()}, on {manifest.device}",
        f"newest checkpoint: {run / manifest.checkpoints[-1]}",
    )
    if manifest.step < manifest.steps:
        output.log(f"ended before step {manifest.steps}: no validation was better for run.patience steps")
    if manifest.best_validation is not None and manifest.best_checkpoint is not None:
        output.show(f"best: {describe_best(manifest.best_validation)}; other commands take it as {run}@best")
    output.show(f"all of it as a page: sr-deploy info {run} --html {run.name}.html")


def _build_table(result: ValidationResult) -> Table:
    from rich.table import Table

    from sr_deploy.cli.evaluate import FIGURES, join_figures, score_cells
    from sr_deploy.measure.quality import average_scores
    from sr_deploy.train.run import HeldOutScores

    table = Table(title=f"Held-out photographs after {result.step} steps: network / bicubic")
    table.add_column("photograph")
    for heading in FIGURES:
        table.add_column(heading, justify="right")
    table.add_column("NIQE", justify="right")
    rows = [*result.photographs, HeldOutScores(name="mean", model=result.model, bicubic=result.bicubic)]
    if result.degraded:
        models, bicubics = ([getattr(one, name) for one in result.degraded] for name in ("model", "bicubic"))
        means = average_scores(models), average_scores(bicubics)
        rows.append(HeldOutScores(name="mean, degraded", model=means[0], bicubic=means[1]))
    for row in rows:
        cells = (*score_cells(row.model, row.bicubic), join_figures([row.model.niqe, row.bicubic.niqe], 2))
        table.add_row(row.name, *cells, end_section=row is result.photographs[-1])
    return table
