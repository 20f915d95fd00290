"""From a checkpoint to a deployment: graphs, the engines that this machine can build, and the certificate."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.arch.registry import input_multiple
from sr_deploy.backends import Precision
from sr_deploy.bundle import (
    Bundle,
    CertificateEntry,
    EngineRecord,
    GraphRecord,
    Manifest,
    SourceRecord,
    creating_bundle,
    open_bundle,
    record_file,
    utc_now,
)
from sr_deploy.bundle.store import MANIFEST_NAME, REFERENCE_NAME
from sr_deploy.engine.bundle import EngineBackend, NotBuilt, build_engines, check_backend
from sr_deploy.engine.profiles import check_profiles
from sr_deploy.errors import CheckpointError, OutputError
from sr_deploy.export.spec import ExportSpec, load_spec
from sr_deploy.files import sha256_of, write_text
from sr_deploy.model import Model, open_model

if TYPE_CHECKING:
    from sr_deploy.bench.pair import PairTiming
    from sr_deploy.graph.rewrite import RewriteReport
    from sr_deploy.verify.model import NotRun

DEPLOYMENTS = Path("deployments")
"""Where bundles go unless a path is given, under the current folder."""


@dataclass(frozen=True)
class GraphSaving:
    """What rewriting the FP32 graph saved."""

    report: RewriteReport
    """Which rewrites, and the graph's size before and after."""
    timing: PairTiming | None
    """Both graphs timed in turn on this machine; None if there was nothing to rewrite."""


@dataclass(frozen=True)
class ExportResult:
    """What `export_bundle` made."""

    bundle: Bundle
    """The deployment."""
    engines: tuple[EngineRecord, ...]
    """Engines built on this machine."""
    not_built: tuple[NotBuilt, ...]
    """What to build elsewhere."""
    certificate: tuple[CertificateEntry, ...]
    """What was measured of every artefact that runs here."""
    not_run: tuple[NotRun, ...]
    """What could not be measured here, and why."""
    saving: GraphSaving | None = None
    """What rewriting the graph saved; None if the spec leaves it plain."""

    @property
    def passed(self) -> bool:
        """Whether everything that was measured met its thresholds."""
        return all(entry.passed for entry in self.certificate)


def export_bundle(
    checkpoint: Path | str,
    spec: ExportSpec | None = None,
    out: Path | None = None,
    backend: EngineBackend = "auto",
    on_stage: Callable[[str], None] | None = None,
) -> ExportResult:
    """Make a deployment of a checkpoint: graphs first, then engines, then the certificate.

    The bundle appears in one step with its graphs; a bundle that stood there is replaced as a whole. An engine that
    this machine cannot build is no error: the result says what to run where. A certificate that falls short is no error
    either: see `ExportResult.passed`.

    Args:
        checkpoint: anything with weights: a published file, a run folder, one of its checkpoints, a bundle.
        spec: what to make; None: the spec `default`.
        out: folder of the bundle; None: `deployments/` and the name of the run or the checkpoint.
        backend: which SDK builds engines.
        on_stage: told what is being done, one line each.

    Raises:
        InputError: no such file, no weights in it, a profile that the network cannot run.
        OutputError: the folder cannot be written, or holds something that is no bundle.

    Example:
        >>> result = export_bundle("realesr-animevideov3.pth")  # doctest: +SKIP
        >>> result.bundle.precisions  # doctest: +SKIP
        ('fp32',)
    """
    from sr_deploy.verify.model import list_not_run, verify_model

    tell = on_stage or (lambda _: None)
    check_backend(backend)
    model = open_model(Path(checkpoint))
    spec = spec or load_spec()
    path = out or DEPLOYMENTS / default_name(model)
    _check_place(path)
    bundle, saving = _write_bundle(model, spec, path, tell)
    not_built = build_engines(bundle, backend, on_stage=tell, tolerant=True).not_built
    exported = open_model(path)
    entries = verify_model(exported, on_stage=tell)
    return ExportResult(
        bundle=bundle,
        engines=tuple(sorted(bundle.engines(), key=lambda record: bundle.precisions.index(record.precision))),
        not_built=not_built,
        certificate=tuple(entries),
        not_run=tuple(list_not_run(exported)),
        saving=saving,
    )


def default_name(model: Model) -> str:
    """Name of a deployment: that of the run that the weights lie in, of the bundle, or of the file."""
    if model.bundle is not None:
        return model.bundle.manifest.name
    path = model.path.resolve()
    for folder in (path, *path.parents):
        if (folder / "run.json").is_file():
            return folder.name
    return path.stem


def _check_place(path: Path) -> None:
    """Refuse to replace a folder that holds something else."""
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST_NAME).is_file():
        raise OutputError(f"{path} holds files and is no bundle; choose another folder with --out, or empty it")


def _write_bundle(
    model: Model, spec: ExportSpec, path: Path, tell: Callable[[str], None]
) -> tuple[Bundle, GraphSaving | None]:
    """Weights, graphs and manifest, written aside and renamed."""
    from sr_deploy.arch.weights import save_generator
    from sr_deploy.measure.machine import tool_versions

    weights, arch = model.weights_path, model.arch
    if weights is None or arch is None:
        raise CheckpointError(f"{model.path} holds no weights (it is a {model.kind}); give a checkpoint or a run")
    check_profiles(spec.profiles, arch)
    with creating_bundle(path) as folder:
        network = model.load_network()
        source = SourceRecord(file=weights.name, sha256=sha256_of(weights), layout=model.layout or "sr-deploy")
        tell(f"read {weights.name}: {arch.title()}")
        save_generator(folder / REFERENCE_NAME, network.state_dict(), arch, {"source_sha256": source.sha256})
        graphs, saving = _write_graphs(model, spec, folder, source.sha256, tell)
        manifest = Manifest(
            name=path.name or path.resolve().name,
            created_at=utc_now(),
            arch=arch,
            input_multiple=input_multiple(arch),
            source=source,
            reference=record_file(folder, REFERENCE_NAME),
            graphs=graphs,
            rewrites=tuple(step.name for step in saving.report.applied) if saving else (),
            profiles=spec.profiles,
            thresholds=spec.thresholds,
            tools=tool_versions(),
        )
        write_text(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
    return open_bundle(path), saving


def _write_graphs(
    model: Model, spec: ExportSpec, folder: Path, source_sha256: str, tell: Callable[[str], None]
) -> tuple[tuple[GraphRecord, ...], GraphSaving | None]:
    from sr_deploy.export.ends import change_graph_ends
    from sr_deploy.export.fp16 import convert_graph_to_fp16
    from sr_deploy.export.onnx_export import export_network_to_onnx

    assert model.arch is not None
    graphs = []
    saving = None
    files: dict[Precision, Path] = {}
    for precision in spec.precisions:
        tell(f"export the {precision} graph")
        file = folder / f"model.{precision}.onnx"
        if precision == "fp32":
            export_network_to_onnx(model.load_network(), model.arch, file, source_sha256)
            saving = _rewrite_graph(file, tell) if spec.rewrite else None
        else:
            convert_graph_to_fp16(folder / "model.fp32.onnx", file)
        files[precision] = file
    for precision, file in files.items():  # last, because one graph is made from another
        change_graph_ends(file, spec.ends)
        graphs.append(GraphRecord(precision=precision, **record_file(folder, file.name).model_dump()))
    return tuple(graphs), saving


def _rewrite_graph(file: Path, tell: Callable[[str], None]) -> GraphSaving:
    """Put the rewritten graph into the plain one's place, and time both."""
    from sr_deploy.bench.pair import time_pair
    from sr_deploy.export.rewrite import rewrite_graph_file

    tell("rewrite the graph")
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / file.name
        shutil.copyfile(file, plain)
        report = rewrite_graph_file(file)
        timing = time_pair(plain, file) if report.applied else None
    return GraphSaving(report, timing)
