"""The training loop, from top to bottom.

Shape suffixes: N batch, C channels, H height, W width; `lr` is low resolution, `hr` the original, `sr` the network's.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sr_deploy.errors import OutputError, TrainingError, find_want_of_memory, one_line
from sr_deploy.progress import format_span
from sr_deploy.run_folder import find_last_checkpoint, preview_file
from sr_deploy.train.best import is_out_of_patience
from sr_deploy.train.checkpoint import delete_old_checkpoints, write_checkpoint
from sr_deploy.train.clock import Clock
from sr_deploy.train.manifest import check_resumable, update_manifest
from sr_deploy.train.metric_buffer import MetricBuffer
from sr_deploy.train.metrics import MetricsLog
from sr_deploy.train.processes import SINGLE_PROCESS, Processes
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.run import RunManifest, read_manifest, require_kept
from sr_deploy.train.sampling import iterate_batches
from sr_deploy.train.schedule import learning_rate_at
from sr_deploy.train.session import Session, open_session
from sr_deploy.train.session_validation import find_due, is_complete, is_early, make_up_validation, validate_session
from sr_deploy.train.sinks import WandbRun
from sr_deploy.train.validation import write_preview

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """A step of a training. It is no `Progress`, because it carries what was measured: callers judge by the loss."""

    step: int
    """Updates made, those left out among them."""
    loss: float
    """Mean of the latest steps; NaN before the first metrics are in."""
    steps_per_second: float
    """Of the latest steps."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    start_from: Path | None = None,
    changes: Collection[str] = (),
    numbered: bool = False,
    processes: Processes = SINGLE_PROCESS,
    stop: threading.Event | None = None,
    listen: Callable[[], AbstractContextManager[object]] = nullcontext,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> RunManifest:
    """Train one recipe into a run folder.

    Args:
        recipe: what to train.
        out: the run's folder; for a new run it is made, or is empty.
        resume: go on from the last checkpoint in `out`; on the CPU the result has the bits of a run never stopped.
        device: as torch names it; cuda if available, else cpu, if None.
        start_from: anything with weights for the generator to start from.
        changes: keys of the recipe, or sections, that may be others than in the run that goes on, though they change
            what a step computes; its history keeps them.
        numbered: for a new run: where `out` is taken, take the recipe's next free name beside it; the manifest has it.
        processes: who trains along; each calls this with the same arguments.
        stop: when set, the run writes a checkpoint after the present step and returns with status "stopped".
        listen: goes around the steps, as what makes signals set `stop`; before them Ctrl-C may just interrupt.
        on_step: told after each step.

    Raises:
        TrainingError: the loss is NaN or infinite, the memory is too small, or the run cannot be resumed.
        LockedError: another process trains this run.
        SrDeployError: anything wrong with recipe, data, weights or folders.
    """
    if resume and _is_finished(check_resumable(recipe, out, changes), recipe):
        manifest = read_manifest(out)
        more = "run.steps=MORE" if manifest.step == recipe.run.steps else "run.patience=0"
        _LOG.info("%s is finished: %d steps; to train on: --resume --set %s", out, manifest.step, more)
        return manifest
    opening = open_session(
        recipe, out, resume=resume, device=device, start_from=start_from, changes=changes, processes=processes,
        numbered=numbered,
    )  # fmt: skip
    run = out if resume else None
    try:
        with opening as session:
            run = session.run
            _LOG.info("%s", _describe_start(session))
            with listen():
                _run_steps(session, stop or threading.Event(), on_step)
            return session.manifest
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = one_line(error)
        raise TrainingError(
            f"torch.compile failed ({reason}); it needs a C++ compiler on a CPU and Triton on a GPU: train without it, "
            "--set precision.compile=false"
        ) from error
    except (RuntimeError, MemoryError) as error:  # torch's on a CPU is a plain RuntimeError
        if find_want_of_memory(error) is None:
            raise
        raise TrainingError(_describe_want_of_memory(recipe, run)) from error


def _describe_want_of_memory(recipe: Recipe, run: Path | None) -> str:
    data, last = recipe.data, find_last_checkpoint(run) if run is not None else None
    kept = "no checkpoint was written yet" if last is None else f"{last[1]} is the last checkpoint: --from takes it"
    return (
        f"the memory is too small for {data.batch} patches of {data.patch_size} pixels; lower --set data.batch or "
        f"--set data.patch_size in a new run, or --set data.cache_gib (now {data.cache_gib:g}); {kept}"
    )


def _run_steps(session: Session, stop: threading.Event, on_step: Callable[[StepReport], None]) -> None:
    """The loop. One iteration is one update and what is due after it."""
    recipe, state, processes = session.recipe, session.state, session.processes
    buffer = MetricBuffer(state, processes, recipe.run.bad_steps)
    clock = Clock(state)
    postponed = False  # whether a checkpoint was due and was not written
    begun, data = state.step, recipe.data
    # Side by side, processes end at the same step: none leaves alone while it waits for its batch, or validates.
    hasty = stop if processes.world_size == 1 else None
    early = is_early(session)  # killed before it said that it ended
    last_step = state.step if early else recipe.run.steps
    torch.backends.cudnn.benchmark = session.device.type == "cuda"  # shapes do not change from step to step
    with (
        _recording_failure(session),
        _open_log(session) as log,
        closing(iterate_batches(session.sampler, begun, last_step, data.workers, hasty)) as batches,
    ):
        if log is not None and log.advice:
            _LOG.warning("%s", log.advice)
        make_up_validation(session, log, hasty)
        for batch in clock.watch(batches):
            # The update.
            pair = session.make_pair(batch)
            learning_rate = learning_rate_at(state.step, recipe.optimizer, recipe.run.steps)
            metrics = session.updater.update(pair, learning_rate)
            state.average.update(state.network, state.step)
            state.step += 1
            buffer.add(metrics)

            # What is due. Metrics come first: non-finite steps must end the run before anything is written.
            ending = processes.any(stop.is_set()) or state.step == recipe.run.steps
            metrics_due = state.step % recipe.run.log_every == 0
            checkpoint_due = ending or postponed or state.step % recipe.run.checkpoint_every == 0
            validates, preview_due = find_due(recipe, state.step)
            if metrics_due or checkpoint_due or validates or preview_due or session.device.type == "cpu":
                buffer.collect()
            clock.tick(state)
            if metrics_due:
                _log_metrics(session, log, clock, buffer.take_means(), learning_rate)
            if validates:
                improved = validate_session(session, log, hasty, ending=ending) if log is not None else False
                early = is_early(session)
                ending, preview_due = ending or early or improved is None, preview_due or early
                checkpoint_due = processes.any(bool(improved) and recipe.run.keep_best) or ending or checkpoint_due
            if preview_due and session.previews and log is not None and not stop.is_set():
                path = preview_file(session.run, state.step)
                preview = write_preview(path, state.average.network, session.held_out, recipe.scale)
                log.log_preview(state.step, preview)
            # Finite weights whose step was not finite may have diverged all the same: the next finite step shows.
            postponed = checkpoint_due and not ending and state.bad_in_row > 0
            if checkpoint_due and not postponed:
                _write_checkpoint(session)
            if checkpoint_due or validates or clock.manifest_due():
                update_manifest(session)
            if checkpoint_due and processes.is_main:  # only now: until then the manifest named them
                delete_old_checkpoints(session.run, recipe.run.keep_checkpoints, session.manifest.best_checkpoint)
            on_step(StepReport(state.step, clock.loss, clock.steps_per_second))
            if ending:
                break
        else:  # no batch came any more
            _save_early_end(session, buffer, begun)
        update_manifest(session, status="finished" if early or is_complete(session) else "stopped")


def _log_metrics(
    session: Session, log: MetricsLog | None, clock: Clock, means: Mapping[str, float], learning_rate: float
) -> None:
    """Log the latest stretch of steps, and say what the user should know of it."""
    clock.lap(session.state, means.get("loss", math.nan))
    for line in _advise(means, clock, session.recipe):
        _LOG.warning("%s", line)
    if log is not None:
        norms = _measure_weights(session.state.network)
        log.log_training(session.state.step, {**means, **norms, "learning_rate": learning_rate, **clock.metrics()})


def _measure_weights(network: nn.Module) -> dict[str, float]:
    """The L2 norm of all weights; nothing where it is NaN or infinite, which JSON has no word for.

    It waits for the device, which was waited for already: metrics were collected.
    """
    norm = float(nn.utils.get_total_norm(list(network.parameters())))
    return {"weight_norm": norm} if math.isfinite(norm) else {}


def _open_log(session: Session) -> AbstractContextManager[MetricsLog | None]:
    """The log of the run; the first process writes it for all."""
    if not session.processes.is_main:
        return nullcontext()
    project, run_id = session.recipe.run.wandb, session.manifest.wandb_id
    wandb = WandbRun(project, session.manifest.name, run_id) if project and run_id else None
    return MetricsLog(session.run, session.state.step, wandb)


def _advise(means: Mapping[str, float], clock: Clock, recipe: Recipe) -> Iterator[str]:
    """What the user should know of the latest steps."""
    if "skipped_steps" in means:
        yield (
            f"{means['skipped_steps']:.0f} of the latest {recipe.run.log_every} steps were left out: their loss or "
            "gradient was NaN or infinite"
        )
    if clock.data_just_became_slow():
        yield (
            f"the device waits for data {100 * clock.data_wait:.0f} % of the time; raise --set data.workers "
            f"(now {recipe.data.workers}) or --set data.cache_gib (now {recipe.data.cache_gib:g}), or draw more "
            f"patches of each decoded picture: --set data.patches_per_decode (now {recipe.data.patches_per_decode})"
        )


def _save_early_end(session: Session, buffer: MetricBuffer, begun: int) -> None:
    """Write a checkpoint where the run is stopped while it waits for a batch, after steps since `begun`."""
    state = session.state
    if begun < state.step < session.recipe.run.steps and not state.bad_in_row:
        buffer.collect()
        _write_checkpoint(session)


def _write_checkpoint(session: Session) -> None:
    """By the first process, for all; every process must call it."""
    state = session.state
    pools = session.processes.gather(state.pool.state_dict()) if state.pool is not None else []
    if session.processes.is_main:
        require_kept(session.run)
        quantization = session.recipe.quantization
        steps = quantization.input_steps if quantization is not None else {}
        write_checkpoint(session.run, state, session.recipe.arch_spec(), pools, input_steps=steps)


@contextmanager
def _recording_failure(session: Session) -> Iterator[None]:
    """Let the manifest say how the loop ended if it ended early."""
    try:
        yield
    except BaseException as error:
        with suppress(OutputError):  # on a full disk the first error is the one to tell
            update_manifest(session, status="stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise


def _is_finished(manifest: RunManifest, recipe: Recipe) -> bool:
    early = is_out_of_patience(manifest.step, manifest.best_validation, recipe.run)
    return manifest.status == "finished" and (early or manifest.step == recipe.run.steps)


def _describe_start(session: Session) -> str:
    recipe, state = session.recipe, session.state
    verb = f"goes on from step {state.step} of" if state.step else "trains"
    timings = session.precision.step_milliseconds
    measured = f" (measured: {', '.join(f'{name} {ms:.0f} ms' for name, ms in timings.items())})" if timings else ""
    return (
        f"{session.run} {verb} {recipe.run.steps} steps: {recipe.arch_spec().title()}, on {session.device} in "
        f"{session.precision.title()}{measured}{_describe_least_time(session)}"
    )


def _describe_least_time(session: Session) -> str:
    """What the generator's passes alone take, by what was measured; nothing where nothing was."""
    milliseconds = session.precision.step_milliseconds.get(session.precision.title())
    if milliseconds is None:
        return ""
    seconds = milliseconds / 1000 * (session.recipe.run.steps - session.state.step)
    more = "" if session.recipe.discriminator is None else ", and what the discriminator takes"
    return f"; at least {format_span(seconds)}{more}"
