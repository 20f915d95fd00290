"""Starts a builder in a process of its own and brings back the engine, or the reason why there is none."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sr_deploy import trt
from sr_deploy.bundle import EngineRecord, FileRecord, utc_now
from sr_deploy.bundle.store import ENGINES_FOLDER
from sr_deploy.engine.request import DEFAULT_FLAGS, EngineRequest
from sr_deploy.engine.worker import FAILURE_MARK, BuildJob, BuildReport
from sr_deploy.errors import BackendError, GraphError, InputError
from sr_deploy.files import output_error, require_file
from sr_deploy.graph.load import find_ends, load_model

_LOG = logging.getLogger(__name__)
_LAST_LINES = 3
_UINT16 = 4  # ONNX's number of the type
_WORKER = (sys.executable, "-P", "-m", "sr_deploy.engine.worker")  # -P: nothing in the current folder is imported


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and all that is recorded of it."""

    record: EngineRecord
    """What it was built from, with and for."""
    engine: bytes
    """The serialised engine."""


def build_engine(request: EngineRequest) -> BuiltEngine:
    """Build one engine.

    Raises:
        BackendError: this machine cannot build it, the builder refused the graph, or crashed; the message has the
            builder's own last words.
        InputError: the graph is missing, or a flag unknown.
        MissingDependencyError: the SDK is not installed.
    """
    reason = trt.why_not_buildable(request.backend)
    if reason is not None:
        raise BackendError(f"cannot build a {request.backend} engine here: {reason}")
    _check_flags(request.flags)
    require_file(request.graph, "an ONNX graph")
    _check_ends(request)
    absolute = request.model_copy(update={"graph": request.graph.resolve()})
    try:
        with tempfile.TemporaryDirectory(prefix="sr-deploy-engine-") as folder:
            job = BuildJob(request=absolute, engine=Path(folder, "engine"), report=Path(folder, "report.json"))
            report = _run_worker(job)
            engine = job.engine.read_bytes()
    except OSError as error:
        raise output_error(Path(error.filename or tempfile.gettempdir()), error) from error
    return BuiltEngine(_record(request, report, engine), engine)


def _check_flags(flags: dict[str, str]) -> None:
    for name, value in flags.items():
        if name not in DEFAULT_FLAGS or value not in ("on", "off"):
            raise InputError(f"unknown builder flag {name}={value}; known: tf32 and strongly_typed, each on or off")
    if flags.get("strongly_typed") != "on":
        raise InputError("engines are strongly typed here: precision lives in the graph; leave strongly_typed on")


def _check_ends(request: EngineRequest) -> None:
    try:
        source, _ = find_ends(request.graph, load_model(request.graph))
    except GraphError:
        return  # the builder says better what is wrong with it
    if source.type.tensor_type.elem_type == _UINT16:
        raise BackendError(
            f"{request.backend} has no 16-bit whole numbers, and {request.graph.name} takes such; export it with "
            'ends = "fp16" or "uint8" for engines'
        )


def _run_worker(job: BuildJob) -> BuildReport:
    done = subprocess.run(
        _WORKER, input=job.model_dump_json(), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == 0 and job.report.is_file():
        return BuildReport.model_validate_json(job.report.read_text(encoding="utf-8"))
    said = f"{done.stdout}\n{done.stderr}"
    _LOG.info("builder's output for %s:\n%s", job.request.graph, said)
    reason = explain_failure(done.returncode, said)
    raise BackendError(f"{job.request.backend} could not build an engine from {job.request.graph.name}: {reason}")


def explain_failure(returncode: int, output: str) -> str:
    """Why a worker failed, in one line: what it said itself, or else the signal and its last lines."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line.removeprefix(FAILURE_MARK) for line in lines if line.startswith(FAILURE_MARK)]
    errors = [re.sub(r"^\[[EF!]\]\s*", "", line) for line in lines if re.match(r"^\[[EF]\]", line)]
    last = " | ".join((errors or lines)[-_LAST_LINES:])
    if said:
        return f"{said[-1]} ({last})" if errors else said[-1]
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"the builder was ended by {name}{hint}; its last lines: {last or 'none'}"
    return f"the builder ended with code {returncode}; its last lines: {last or 'none'}"


def _record(request: EngineRequest, report: BuildReport, engine: bytes) -> EngineRecord:
    import hashlib

    key = request.key()
    return EngineRecord(
        key=key,
        graph_sha256=request.graph_sha256,
        precision=request.precision,
        backend=request.backend,
        backend_version=request.backend_version(),
        target=request.target(),
        profiles=request.profiles,
        flags=request.flags,
        engine=FileRecord(file=f"{ENGINES_FOLDER}/{key}.engine", sha256=hashlib.sha256(engine).hexdigest()),
        layer_precisions=report.layer_precisions,
        convolution_precisions=report.convolution_precisions,
        inspected=report.inspected,
        build_seconds=report.build_seconds,
        built_at=utc_now(),
    )
