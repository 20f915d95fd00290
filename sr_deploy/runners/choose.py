"""Which runners a model has on this machine, and the one that is asked for. Nothing heavy is imported to answer."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.backends import (
    BACKENDS,
    INT8_BF16,
    PRECISIONS,
    QUANTIZED,
    TENSORRT_BACKENDS,
    Backend,
    BackendChoice,
    Precision,
    parse_backend,
)
from sr_deploy.bundle import EngineRecord
from sr_deploy.deps import install_command, is_installed
from sr_deploy.errors import BackendError
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import Model, open_model
from sr_deploy.runners.engines import find_engine, find_engine_folder, make_search
from sr_deploy.runners.protocol import Runner
from sr_deploy.trt import sdk_version

MODULES: dict[Backend, str] = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}


def open_runner(
    model: Model | Path | str,
    choice: BackendChoice | str,
    *,
    device: str | None = None,
    threads: int | None = None,
    rewrite: bool = True,
) -> Runner:
    """Load a model into a backend.

    Args:
        model: what to run, or its path.
        choice: as in `openvino:bf16`; without a precision it is fp32.
        device: `cpu` or `cuda:0`; None: the GPU where the backend has one, else the CPU. What was asked for is what
            runs, or an error.
        threads: of the CPU; None: one a core (torch is left as it is: the number holds for the whole process).
        rewrite: let ONNX Runtime and OpenVINO on a CPU have an FP32 graph in the form that they run fastest, the same
            within rounding (docs/graph.md); `runner.spec.rewrites` says what was done. False: as it is in the file.

    Returns:
        The runner; `runner.spec.device` says where it runs. Use it as a context manager.

    Raises:
        BackendError: this backend, precision or device does not run here; the message says why.
        OutOfMemoryError: a graph that takes one size only needs more memory for it than there is.
        InputError: there is no such model.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    if isinstance(choice, str):
        choice = parse_backend(choice)
    reason = why_not_runnable(model, choice)
    if reason is not None:
        raise BackendError(reason)
    if choice.backend == "torch":
        from sr_deploy.runners.torch_runner import TorchRunner

        return TorchRunner(model, choice, device, threads)
    if choice == BackendChoice("onnxruntime", "bf16"):  # it has no such convolution: FP32 with each result rounded
        from sr_deploy.runners.base import require_cpu
        from sr_deploy.runners.rounded_runner import RoundedRunner

        require_cpu(str(choice), device)
        return RoundedRunner(model, choice.precision, threads)
    if choice.backend == "onnxruntime":
        from sr_deploy.runners.onnxruntime_runner import OnnxRuntimeRunner

        return OnnxRuntimeRunner(model, choice, device, threads, rewrite=rewrite)
    if choice.backend == "openvino":
        from sr_deploy.runners.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(model, choice, device, threads, rewrite=rewrite)
    from sr_deploy.runners.tensorrt_runner import TensorRtRunner

    return TensorRtRunner(model, choice, device)


def runnable_choices(model: Model) -> list[BackendChoice]:
    """What this machine can run of this model: torch first, then in the order of `BACKENDS` and `PRECISIONS`."""
    return [choice for choice in all_choices() if why_not_runnable(model, choice) is None]


def all_choices() -> list[BackendChoice]:
    """Every backend in every precision, and INT8 with the rest in BF16, runnable or not."""
    plain = [BackendChoice(backend, precision) for backend in BACKENDS for precision in PRECISIONS]
    place = plain.index(BackendChoice("openvino", "int8")) + 1
    return [*plain[:place], INT8_BF16, *plain[place:]]


def why_not_runnable(model: Model, choice: BackendChoice) -> str | None:
    """Why this machine cannot run `model` so, in one line with the way out; None if it can."""
    module = MODULES[choice.backend]
    if choice.backend in TENSORRT_BACKENDS and not visible_gpus():
        return f"{choice} needs an NVIDIA GPU, and this machine shows none; use a machine that has one"
    if not is_installed(module):
        return f"{choice} needs {module}, which is not installed; run: {install_command(module)}"
    if choice.backend == "torch":
        return _why_not_torch(model, choice)
    if choice.backend in TENSORRT_BACKENDS:
        return _why_not_engine(model, choice)
    if choice.backend == "openvino":
        return _why_not_openvino(model, choice)
    return _why_no_graph(model, choice, choice.precision)


def _why_not_torch(model: Model, choice: BackendChoice) -> str | None:
    if choice.precision in QUANTIZED:
        return f"{choice} does not exist: torch runs fp32, fp16 and bf16; {choice.precision} runs from an ONNX graph"
    if not model.has_weights:
        return f"{choice} needs PyTorch weights, and {model.path} has none: give the checkpoint or a bundle"
    return None


def find_graph_precision(model: Model, choice: BackendChoice) -> Precision:
    """Precision of the ONNX graph that a choice runs.

    OpenVINO computes in FP32 and BF16 what is stored in FP32, or in FP16 where there is nothing else.
    """
    if choice.backend != "openvino" or choice.precision not in ("fp32", "bf16"):
        return choice.precision
    return "fp16" if "fp16" in model.precisions and "fp32" not in model.precisions else "fp32"


def _why_not_openvino(model: Model, choice: BackendChoice) -> str | None:
    from sr_deploy.runners.openvino_runner import why_not_computed

    missing = _why_no_graph(model, choice, find_graph_precision(model, choice))
    if choice.precision == "fp16":  # no graph would help
        return why_not_computed(choice)
    return missing or why_not_computed(choice)


def _why_no_graph(model: Model, choice: BackendChoice, precision: str) -> str | None:
    if precision in model.precisions:
        return None
    if not model.precisions:
        return f"{choice} needs an ONNX graph, and {model.path} has none; make a bundle with: sr-deploy export"
    return f"{choice} needs a graph in {precision}, and {model.path} has {', '.join(model.precisions)} only"


def _why_not_engine(model: Model, choice: BackendChoice) -> str | None:
    try:
        records: tuple[EngineRecord, ...] = find_engine_folder(model, choice).engines()
    except BackendError as error:
        return str(error)
    version = sdk_version(choice.backend) or ""
    reasons = []
    for gpu in visible_gpus():
        try:
            find_engine(records, make_search(model, choice, version, gpu))
        except BackendError as error:
            reasons.append(str(error))
        else:
            return None
    return reasons[0]
