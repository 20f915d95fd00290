"""Starts a builder in a process of its own and brings back the engine, or the reason why there is none."""

from __future__ import annotations

import contextlib
import logging
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sr_deploy import trt
from sr_deploy.bundle import EngineRecord, FileRecord, utc_now
from sr_deploy.bundle.records import ENGINES_FOLDER
from sr_deploy.engine.explain import explain_failure, find_oversized_profile
from sr_deploy.engine.options import check_options
from sr_deploy.engine.precision import judge_layers, list_work, share_multiply_adds
from sr_deploy.engine.progress import BuildProgress, read_progress
from sr_deploy.engine.request import EngineRequest
from sr_deploy.engine.worker import ATTACHED, BuildJob, BuildReport
from sr_deploy.errors import BackendError, GraphError
from sr_deploy.files import output_error, require_file
from sr_deploy.gpus import visible_gpus
from sr_deploy.graph.load import find_input_output, load_model
from sr_deploy.names import lend_path

_LOG = logging.getLogger(__name__)
_UINT16 = 4  # ONNX's number of the type
# -P: nothing in the current folder is imported
_WORKER = (sys.executable, "-P", "-m", "sr_deploy.engine.worker", ATTACHED)
_BEAT_SECONDS = 1.0  # a builder may say nothing for minutes: the time so far is told meanwhile

OnProgress = Callable[[BuildProgress], None]
"""Told what the builder is doing, at least once a second."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and all that is recorded of it."""

    record: EngineRecord
    """What it was built from, with and for."""
    engine: bytes
    timing_cache: bytes | None = None
    """What the builder learnt of kernels' times; None where it keeps nothing."""


def build_engine(
    request: EngineRequest, *, timing_cache: bytes | None = None, on_progress: OnProgress | None = None
) -> BuiltEngine:
    """Build one engine.

    Args:
        request: what to build.
        timing_cache: what earlier builds learnt, empty at first; None: keep nothing.
        on_progress: told where the build stands.

    Raises:
        BackendError: this machine cannot build it, the builder refused the graph or a shape, ran out of memory, or
            crashed; the message says which, with the builder's own last words.
        InputError: the graph is missing, or the SDK has no such setting or does not build for such a GPU.
        MissingDependencyError: the SDK is not installed.
    """
    reason = trt.why_not_buildable(request.backend)
    if reason is not None:
        raise BackendError(f"cannot build a {request.backend} engine here: {reason}")
    check_options(request.backend, request.options)
    if request.compute_capabilities:
        trt.resolve_compute_capabilities(request.backend, request.compute_capabilities)
    require_file(request.graph, "an ONNX graph")
    _check_io_dtype(request)
    try:
        with tempfile.TemporaryDirectory(prefix="sr-deploy-engine-") as name, lend_path(request.graph) as graph:
            absolute = request.model_copy(update={"graph": graph.absolute()})
            folder = Path(name)
            cache = None if timing_cache is None else folder / "timing"
            if cache is not None and timing_cache:
                cache.write_bytes(timing_cache)
            job = BuildJob(
                request=absolute, engine=folder / "engine", report=folder / "report.json", timing_cache=cache
            )
            report = _run_worker(job, on_progress or (lambda _: None))
            engine = job.engine.read_bytes()
            learnt = cache.read_bytes() if cache is not None and cache.is_file() else None
    except OSError as error:
        raise output_error(Path(error.filename or tempfile.gettempdir()), error) from error
    return BuiltEngine(_record(request, report, engine), engine, learnt)


def _check_io_dtype(request: EngineRequest) -> None:
    try:
        source, _ = find_input_output(request.graph, load_model(request.graph))
    except GraphError:
        return  # the builder says better what is wrong with it
    if source.type.tensor_type.elem_type == _UINT16:
        raise BackendError(
            f"{request.backend} has no 16-bit integers, and {request.graph.name} takes such; export it with "
            'io_dtype = "fp16" or "uint8" for engines'
        )


def _run_worker(job: BuildJob, tell: OnProgress) -> BuildReport:
    returncode, said = _follow_worker(job.model_dump_json(), tell)
    _LOG.info("builder's output for %s:\n%s", job.request.graph, said)
    oversized = find_oversized_profile(said, job.request)
    if returncode == 0 and job.report.is_file() and oversized is None:
        return BuildReport.model_validate_json(job.report.read_text(encoding="utf-8"))
    reason = oversized or explain_failure(returncode, said, job.request)
    raise BackendError(f"{job.request.backend} could not build an engine from {job.request.graph.name}: {reason}")


def _follow_worker(job: str, tell: OnProgress) -> tuple[int, str]:
    """Run the worker to its end, telling its progress; its exit code and all else that it wrote."""
    started = time.monotonic()
    lines: queue.Queue[str | None] = queue.Queue()
    said = []
    progress = BuildProgress("starting the builder", 0, 0, 0.0)
    with subprocess.Popen(
        _WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        reader = threading.Thread(target=_pass_lines, args=(worker.stdout, lines), daemon=True)
        reader.start()
        try:
            _give(worker.stdin, job)
            while True:
                seconds = time.monotonic() - started
                try:
                    line = lines.get(timeout=_BEAT_SECONDS)
                except queue.Empty:
                    tell(BuildProgress(progress.stage, progress.done, progress.total, seconds))
                    continue
                if line is None:
                    break
                seen = read_progress(line, seconds)
                if seen is None:
                    said.append(line)
                else:
                    progress = seen
                    tell(progress)
            return worker.wait(), "".join(said)
        finally:
            worker.kill()  # an interrupted build leaves no builder behind; one that has ended is past caring
            reader.join()
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()


def _pass_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _give(stream: IO[str], job: str) -> None:
    """One line; the stream stays open, and its end tells the worker that nobody waits for it any more."""
    with contextlib.suppress(BrokenPipeError):  # it ended before it read its job; what it wrote says why
        stream.write(f"{job}\n")
        stream.flush()


def _record(request: EngineRequest, report: BuildReport, engine: bytes) -> EngineRecord:
    import hashlib

    key = request.key()
    try:
        work = list_work(request.graph)
    except GraphError as error:  # a foreign graph whose shapes cannot be followed: layers are known, not their weight
        _LOG.warning("%s: the layers' share of the work is not recorded: %s", request.graph.name, error)
        work = []
    return EngineRecord(
        key=key,
        graph_sha256=request.graph_sha256,
        precision=request.precision,
        backend=request.backend,
        backend_version=request.backend_version(),
        target=request.target(),
        profiles=request.profiles,
        flags=request.options.as_flags(),
        engine=FileRecord(file=f"{ENGINES_FOLDER}/{key}.engine", sha256=hashlib.sha256(engine).hexdigest()),
        layer_precisions=report.layer_precisions,
        convolution_precisions=report.convolution_precisions,
        declared=report.declared,
        multiply_add_shares=share_multiply_adds(report.declared, work),
        unplanned_layers=tuple(judge_layers(report.declared, request.precision, request.planned_fp32)),
        inspected=report.inspected,
        build_seconds=report.build_seconds,
        built_on=describe_builder(),
        built_at=utc_now(),
    )


def describe_builder() -> str:
    """System, processor and GPU of this machine, as records of engines say it."""
    gpus = visible_gpus()
    return f"{platform.system()} {platform.machine()} {f'with {gpus[0].name}' if gpus else 'without a GPU'}"
