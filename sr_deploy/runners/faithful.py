"""Which choices `--backend auto` may take: FP32, and less where it was asked for and the certificate covers it here.

The same rule holds on a CPU and on a GPU, where the choices are the engines that fit it, and PyTorch.
"""

from __future__ import annotations

from sr_deploy.backends import QUANTIZED, BackendChoice
from sr_deploy.backends.builders import sdk_version
from sr_deploy.backends.description import DeviceKind
from sr_deploy.backends.registry import get_backend, list_for_auto
from sr_deploy.bundle import Bundle, Certificate, FileRecord
from sr_deploy.bundle.crosscheck import list_flaws
from sr_deploy.deps import installed_version
from sr_deploy.errors import BackendError, BundleError
from sr_deploy.gpus import Gpu
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.runners.choose import find_graph_precision, why_not_runnable
from sr_deploy.runners.engines import find_engine, find_engine_folder, make_search
from sr_deploy.shipped import is_shipped


def list_in_fp32(device: DeviceKind) -> tuple[BackendChoice, ...]:
    """FP32 of every backend that `auto` chooses among."""
    return tuple(BackendChoice(backend.name) for backend in list_for_auto(device))


def list_reduced(device: DeviceKind) -> list[BackendChoice]:
    """Below FP32: by the rank of the backend, those of one rank in turn, so that the precision comes first."""
    ranked = [
        (backend.auto[device].rank, place, choice)
        for backend in list_for_auto(device)
        for place, choice in enumerate(backend.auto[device].reduced)
    ]
    return [choice for _, _, choice in sorted(ranked, key=lambda one: one[:2])]


def list_faithful(model: Model) -> list[BackendChoice]:
    """The faithful choices of a model that this machine's CPU can run.

    A graph that is no bundle's and has no FP32 is its own precision: who gives such a file asks for it, or for its
    numbers computed in FP32.
    """
    wanted = list_in_fp32("cpu")
    if model.bundle is None and model.precisions and "fp32" not in model.precisions:
        wanted += tuple(BackendChoice(choice.backend, model.precisions[0]) for choice in wanted)
    # What the certificate covers has run here: whether it can need not be asked, which would import its library.
    covered = [choice for choice, reason in _judge_reduced(model).items() if reason is None]
    return [*(choice for choice in wanted if why_not_runnable(model, choice) is None), *covered]


def list_faithful_on_gpu(model: Model, gpu: Gpu) -> list[BackendChoice]:
    """The faithful choices of a model that run on a GPU: engines that fit it and PyTorch, the lowest precision first.

    PyTorch has to see the GPU, since it holds the pictures there for engines too.
    """
    covered = [choice for choice, reason in _judge_reduced(model, gpu).items() if reason is None]
    full = [choice for choice in list_in_fp32("cuda") if _runs_on(model, choice, gpu)]
    return [*covered, *full]


def _runs_on(model: Model, choice: BackendChoice, gpu: Gpu) -> bool:
    """Whether a choice runs here, and an engine on that very GPU."""
    if why_not_runnable(model, choice) is not None:
        return False
    return get_backend(choice.backend).artifact != "engine" or _find_engine(model, choice, gpu) is not None


def _find_engine(model: Model, choice: BackendChoice, gpu: Gpu) -> FileRecord | None:
    try:
        records = find_engine_folder(model, choice).engines()
        return find_engine(records, make_search(model, choice, sdk_version(choice.backend) or "", gpu)).engine
    except BackendError:
        return None


def explain_left_out(model: Model, gpu: Gpu | None = None) -> list[str]:
    """Reduced precisions of the bundle that its certificate does not cover here, one line each."""
    return [
        f"{choice} left out: {reason}"
        for choice, reason in _judge_reduced(model, gpu).items()
        if reason is not None and why_not_runnable(model, choice) is None
    ]


def explain_unrunnable(model: Model) -> str:
    """Why no choice runs this model on the CPU, for a message."""
    return "; ".join(filter(None, (why_not_runnable(model, choice) for choice in list_in_fp32("cpu"))))


def _judge_reduced(model: Model, gpu: Gpu | None = None) -> dict[BackendChoice, str | None]:
    """What the bundle was exported with, and why its certificate does not cover it here; None: it does."""
    bundle = model.bundle
    if model.kind != "bundle" or bundle is None:
        return {}
    wanted = list_reduced("cpu" if gpu is None else "cuda")
    asked = [choice for choice in wanted if bundle.manifest.graph(choice.precision) is not None]
    if gpu is not None:  # most precisions have no engine that fits: nothing to say of those
        asked = [choice for choice in asked if _runs_on(model, choice, gpu)]
    if not asked:
        return {}
    try:
        # Not `Bundle.certificate`: it hashes each file again, which opening the bundle has just done.
        certificate = bundle.stated_certificate()
    except BundleError as error:
        return dict.fromkeys(asked, str(error))
    return {
        choice: _why_not_covered(bundle, certificate, choice, _find_artifact(model, bundle, choice, gpu), gpu)
        for choice in asked
    }


def _why_not_covered(
    bundle: Bundle,
    certificate: Certificate,
    choice: BackendChoice,
    artifact: FileRecord | None,
    gpu: Gpu | None,
) -> str | None:
    """Why the certificate does not cover `choice` on this processor, or on a GPU; None if it does."""
    manifest = bundle.manifest
    search = manifest.searches.get(choice.precision)
    if choice.precision in QUANTIZED and (search is None or not search.passed):
        return "the graph is not within the budget that it was made for"
    if artifact is None:
        return "the bundle has no such graph"
    if any(not check.passed for check in certificate.checks if check.file == artifact.file):
        return f"a check of {artifact.file} failed"
    machine = describe_machine()
    verified = [
        entry
        for entry in certificate.entries
        if entry.backend == str(choice)
        and entry.backend_version == installed_version(get_backend(choice.backend).package)
        and entry.machine == (machine.cpu if gpu is None else gpu.name)
        and (gpu is not None or entry.cpu_features == machine.features)
        and entry.artifact.sha256 == artifact.sha256
        and entry.reference_sha256 == manifest.reference.sha256
    ]
    if not verified:
        way_out = "" if is_shipped(bundle.path) else f"; run: sr-deploy verify {bundle.path}"  # that keeps no entries
        return f"not verified on this machine with these versions{way_out}"
    newest = verified[-1]
    flaws = [*list_flaws(newest)]
    if flaws:
        return f"its entry in the certificate {flaws[0]}"
    if choice.floats and manifest.int8 is not None and not _within(newest.drop_db, manifest.int8.max_drop_db):
        return "its entry names no loss within the budget that the graph was made for"
    return None if newest.passed else "its verification failed on this machine"


def _find_artifact(model: Model, bundle: Bundle, choice: BackendChoice, gpu: Gpu | None) -> FileRecord | None:
    """What a choice runs: the weights, an engine that fits the GPU, or a graph; None: the bundle has no such graph."""
    artifact = get_backend(choice.backend).artifact
    if artifact == "weights":
        return bundle.manifest.reference
    if artifact == "engine":
        return None if gpu is None else _find_engine(model, choice, gpu)
    return bundle.manifest.graph(find_graph_precision(model, choice))


def _within(drop_db: float | None, allowed_db: float) -> bool:
    return drop_db is not None and drop_db <= allowed_db
