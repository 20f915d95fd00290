"""From a checkpoint to a deployment: graphs, the engines that this machine can build, and the certificate."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.arch.registry import input_multiple
from sr_deploy.arch.spec import Attribution
from sr_deploy.backends import Precision
from sr_deploy.bundle import (
    Bundle,
    CertificateEntry,
    EngineRecord,
    GraphRecord,
    Int8Record,
    Manifest,
    NotRun,
    SourceRecord,
    creating_bundle,
    holding_bundle,
    open_bundle,
    record_file,
    utc_now,
)
from sr_deploy.bundle.signature import read_private_key, sign_bundle
from sr_deploy.bundle.store import MANIFEST_NAME, REFERENCE_NAME, is_bundle
from sr_deploy.engine.bundle import NotBuilt, build_engines, check_plan
from sr_deploy.engine.profiles import check_profiles
from sr_deploy.errors import CheckpointError, GraphError, OutputError, VerificationError
from sr_deploy.export.int8.bundle import Calibration
from sr_deploy.export.int8.calibration_images import list_calibration_images
from sr_deploy.export.spec import ExportSpec, load_spec
from sr_deploy.export.triton import TritonModel, write_triton_models
from sr_deploy.files import sha256_of, write_text
from sr_deploy.model import Model, open_model
from sr_deploy.progress import OnProgress
from sr_deploy.run_folder import is_run
from sr_deploy.untrusted import make_component

if TYPE_CHECKING:
    from sr_deploy.bench.pair import PairTiming
    from sr_deploy.export.fp16_plan import Fp16Plan
    from sr_deploy.export.int8.bundle import Int8Graph
    from sr_deploy.graph.rewrite import RewriteReport
    from sr_deploy.verification.verify import Verification

_LOG = logging.getLogger(__name__)
DEPLOYMENTS = Path("deployments")
"""Where bundles go unless a path is given, under the current folder."""


@dataclass(frozen=True)
class GraphSaving:
    """What rewriting the FP32 graph saved."""

    report: RewriteReport
    """Which rewrites, and the graph's size before and after."""
    timing: PairTiming | None
    """Both graphs timed in turn on this machine; None if there was nothing to rewrite, or nothing to run it with."""


@dataclass(frozen=True)
class WrittenGraphs:
    """The graphs of a bundle, and what was found out while they were made."""

    records: tuple[GraphRecord, ...]
    saving: GraphSaving | None = None
    """What rewriting the FP32 graph saved; None if the spec leaves it plain."""
    fp16_plan: Fp16Plan | None = None
    """Which layers stay FP32 in the FP16 graph, and what was measured; None without one."""
    searches: Mapping[Precision, Int8Record] = field(default_factory=dict)
    """What the search for INT8 and for FP8 found, where there are such graphs."""
    left_out: Mapping[Precision, str] = field(default_factory=dict)
    """Precisions that were optional and do not meet their budget, and why."""


@dataclass(frozen=True)
class ExportResult:
    """What `export_bundle` made."""

    bundle: Bundle
    engines: tuple[EngineRecord, ...]
    """Engines built on this machine."""
    not_built: tuple[NotBuilt, ...]
    """What to build elsewhere."""
    certificate: tuple[CertificateEntry, ...]
    """What was measured of every artifact that runs here."""
    not_run: tuple[NotRun, ...]
    """What could not be measured here, and why."""
    verification: Verification
    """All that was found: the entries above, what is in the files, the error budget by stage."""
    saving: GraphSaving | None = None
    """What rewriting the graph saved; None if the spec leaves it plain."""
    fp16_plan: Fp16Plan | None = None
    """Which layers stay FP32 in the FP16 graph, and what was measured; None without one."""
    triton: tuple[TritonModel, ...] = ()
    """Models written for NVIDIA's Triton Inference Server, if asked for."""
    left_out: Mapping[Precision, str] = field(default_factory=dict)
    """Precisions that were optional and do not meet their budget, and why."""

    @property
    def passed(self) -> bool:
        """Whether the verdict is `verified`."""
        return self.verification.passed


def export_bundle(
    checkpoint: Path | str,
    spec: ExportSpec | None = None,
    out: Path | None = None,
    backend: str | None = None,
    *,
    on_progress: OnProgress | None = None,
    triton: Path | None = None,
    calibration: Calibration | None = None,
    attribution: Attribution | None = None,
    sign: Path | None = None,
) -> ExportResult:
    """Make a deployment of a checkpoint: graphs first, then engines, then the certificate.

    The bundle appears in one step with its graphs; a bundle that stood there is replaced as a whole. An engine that
    this machine cannot build is no error: the result says what to run where. A certificate that falls short is no error
    either: see `ExportResult.passed`.

    Args:
        checkpoint: anything with weights: a published file, a run folder, one of its checkpoints, a bundle.
        spec: what to make; None: the spec `default`.
        out: folder of the bundle; None: `deployments/` and the name of the run or the checkpoint.
        backend: which SDK builds engines; None: the spec's.
        on_progress: told what the builder does and the seconds so far of each engine, at least once a second.
        triton: folder of models of NVIDIA's Triton Inference Server to write the graphs and engines to as well.
        calibration: photographs for INT8 and FP8, and whether they are kept if they lose too much; None: the bundled
            ones.
        attribution: license, author and source of the weights, for the certificate; what it leaves out is as the
            checkpoint says.
        sign: private key that the bundle is signed with (`bundle.signature`); None: it is not.

    Raises:
        VerificationError: INT8 or FP8 does not meet its budget; nothing is written.
        InputError: no such file, no weights in it, a profile that the network cannot run, a key that is none.
        OutputError: the folder cannot be written, or holds something that is no bundle.
        LockedError: another process makes this bundle, or writes into the one that stands there.

    Example:
        >>> result = export_bundle("realesr-animevideov3.pth")  # doctest: +SKIP
        >>> result.bundle.precisions  # doctest: +SKIP
        ('fp32',)
    """
    from sr_deploy.verification.verify import verify_model

    spec = spec or load_spec()
    if backend is not None:
        spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"backend": backend})})
    check_plan(spec.engine)
    key = None if sign is None else read_private_key(sign)
    model = open_model(Path(checkpoint))
    if attribution is not None:
        model = replace(model, attribution=model.attribution.override(attribution))
    path = out or DEPLOYMENTS / make_component(default_name(model))
    _check_place(path)
    if calibration is not None and calibration.folder is not None:
        list_calibration_images(calibration.folder)  # says what is wrong with it before anything takes long
    with holding_bundle(path):
        bundle, graphs = _write_bundle(model, spec, path, calibration or Calibration())
        with bundle.writing():
            if key is not None:
                sign_bundle(path, bundle.manifest, key)
            not_built = build_engines(bundle, on_progress=on_progress, tolerant=True).not_built
        verification = verify_model(path)
    return ExportResult(
        bundle=bundle,
        engines=tuple(sorted(bundle.engines(), key=lambda record: bundle.precisions.index(record.precision))),
        not_built=not_built,
        certificate=verification.entries,
        not_run=verification.not_run,
        verification=verification,
        saving=graphs.saving,
        fp16_plan=graphs.fp16_plan,
        triton=() if triton is None else write_triton_models(bundle, triton),
        left_out=graphs.left_out,
    )


def default_name(model: Model) -> str:
    """Name of a deployment: that of the run that the weights lie in, of the bundle, or of the file."""
    if model.bundle is not None:
        return model.bundle.manifest.name
    path = model.path.resolve()
    for folder in (path, *path.parents):
        if is_run(folder):
            return folder.name
    return path.stem


def _check_place(path: Path) -> None:
    """Refuse to replace a folder that holds something else."""
    if path.is_dir() and any(path.iterdir()) and not is_bundle(path):
        raise OutputError(f"{path} holds files and is not a bundle; choose another folder with --out, or empty it")


def _write_bundle(model: Model, spec: ExportSpec, path: Path, calibration: Calibration) -> tuple[Bundle, WrittenGraphs]:
    """Weights, graphs and manifest, written aside and renamed."""
    from sr_deploy.arch.weights import describe_input_steps, read_input_steps, save_generator
    from sr_deploy.measure.machine import tool_versions

    weights, arch = model.weights_path, model.arch
    if weights is None or arch is None:
        raise CheckpointError(f"{model.path} holds no weights (it is a {model.kind}); give a checkpoint or a run")
    check_profiles(spec.profiles, arch)
    with creating_bundle(path) as folder:
        network = model.load_network()
        input_steps = read_input_steps(weights)
        calibration = replace(calibration, input_steps=input_steps)
        source = SourceRecord(
            file=weights.name,
            sha256=sha256_of(weights),
            layout=model.layout or "sr-deploy",
            **model.attribution.stated,
        )
        _LOG.info("read %s: %s", weights.name, arch.title())
        for note in model.notes:
            _LOG.info("%s: %s", weights.name, note)
        save_generator(
            folder / REFERENCE_NAME,
            network.state_dict(),
            arch,
            {"source_sha256": source.sha256, **model.attribution.stated, **describe_input_steps(input_steps)},
        )
        graphs = _write_graphs(model, spec, folder, source_sha256=source.sha256, calibration=calibration)
        manifest = Manifest(
            name=make_component(Path(os.path.abspath(path)).name),
            created_at=utc_now(),
            arch=arch,
            input_multiple=input_multiple(arch),
            source=source,
            reference=record_file(folder, REFERENCE_NAME),
            graphs=graphs.records,
            rewrites=tuple(step.name for step in graphs.saving.report.applied) if graphs.saving else (),
            profiles=spec.profiles,
            engine=spec.engine,
            thresholds=spec.thresholds,
            int8=graphs.searches.get("int8"),
            fp8=graphs.searches.get("fp8"),
            tools=tool_versions(),
        )
        write_text(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
    return open_bundle(path), graphs


def _write_graphs(
    model: Model,
    spec: ExportSpec,
    folder: Path,
    *,
    source_sha256: str,
    calibration: Calibration,
) -> WrittenGraphs:
    from sr_deploy.export.casts import list_place_layers
    from sr_deploy.export.float_format import BF16
    from sr_deploy.export.fp16 import convert_graph_to_format, convert_graph_to_fp16
    from sr_deploy.export.fp16_plan import plan_graph
    from sr_deploy.export.int8.bundle import write_int8_graph
    from sr_deploy.export.onnx_export import export_network_to_onnx
    from sr_deploy.export.write import change_file_io_dtype
    from sr_deploy.graph.load import load_model

    assert model.arch is not None
    saving, plan = None, None
    planned: dict[Precision, tuple[str, ...]] = {}
    quantized: dict[Precision, Int8Graph] = {}
    left_out: dict[Precision, str] = {}
    files: dict[Precision, Path] = {}
    for precision in spec.precisions:
        file = folder / f"model.{precision}.onnx"
        _LOG.info("export the %s graph", precision)
        if precision == "fp32":
            export_network_to_onnx(model.load_network(), model.arch, file, source_sha256)
            saving = _rewrite_graph(file) if spec.rewrite else None
        elif precision == "bf16":
            convert_graph_to_format(files["fp32"], file, BF16)
            planned[precision] = tuple(list_place_layers(load_model(files["fp32"])))
        else:
            plan = plan or plan_graph(files["fp32"], model.arch.channels, model.arch.scale, calibration.folder)
            if precision == "fp16":
                convert_graph_to_fp16(files["fp32"], file, plan.names)
                planned[precision] = plan.names
            else:
                try:
                    options = spec.int8 if precision == "int8" else spec.fp8
                    quantized[precision] = write_int8_graph(
                        files["fp32"], file, options, calibration, keep_fp32=plan.names
                    )
                except (VerificationError, GraphError) as error:
                    if not calibration.optional:
                        raise
                    left_out[precision] = str(error)
                    continue
                planned[precision] = quantized[precision].planned_fp32
        files[precision] = file
    for file in files.values():  # last, because one graph is made from another
        change_file_io_dtype(file, spec.io_dtype)
    searches = {precision: graph.record for precision, graph in quantized.items()}
    records = tuple(
        GraphRecord(
            precision=precision,
            planned_fp32=planned.get(precision, ()),
            int8_share=searches["int8"].share if precision == "int8" else None,
            **record_file(folder, file.name).model_dump(),
        )
        for precision, file in files.items()
    )
    return WrittenGraphs(records, saving, plan, searches, left_out)


def _rewrite_graph(file: Path) -> GraphSaving:
    """Put the rewritten graph into the plain one's place, and time both."""
    from sr_deploy.bench.pair import time_pair
    from sr_deploy.export.write import rewrite_graph_file

    _LOG.info("rewrite the graph")
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / file.name
        shutil.copyfile(file, plain)
        report = rewrite_graph_file(file)
        timing = time_pair(plain, file) if report.applied else None
    return GraphSaving(report, timing)
