"""OpenVINO on the CPU, the precision always said: its own choice would be bf16 wherever the CPU has it. No torch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.openvino import PACKAGE, find_stored
from sr_deploy.backends.openvino.compiled import PURPOSE, compile_graph, open_core
from sr_deploy.deps import require
from sr_deploy.errors import BackendError, OutOfMemoryError, first_line
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error, require_cpu
from sr_deploy.runners.io_conversion import decode_output, encode_input
from sr_deploy.runners.rewritten import open_rewritten
from sr_deploy.runners.shapes import examine_graph, graph_runner_spec
from sr_deploy.runners.threads import default_threads

if TYPE_CHECKING:
    import openvino

    from sr_deploy.graph.rewrite import RewriteOptions

# What computes between the quantized convolutions is FP32, unless `floats` says BF16. FP8 numbers are multiplied in
# FP32 too: CPUs have no such products.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "fp8": "f32"}


class OpenVinoRunner(BaseRunner):
    """A graph in OpenVINO's CPU plugin: fp32, bf16 from the FP32 graph (a lone FP16 one), int8 and fp8 from theirs."""

    def __init__(
        self, model: Model, choice: BackendChoice, device: str | None, threads: int | None, *, rewrite: bool = True
    ) -> None:
        """Compile the graph for this CPU; an FP32 graph is rewritten first, unless `rewrite=False`.

        Raises:
            BackendError: a precision that it does not compute here, another device, or a graph that it refuses.
        """
        sdk = require(PACKAGE, PURPOSE)
        require_cpu("openvino", device)
        reason = why_not_computed(choice)
        if reason is not None:
            raise BackendError(reason)
        path = model.graph_path(find_stored(model.precisions, choice.precision))
        graph = examine_graph(model, path, "cpu")
        self._open = functools.partial(
            open_rewritten,
            path,
            _find_rewrites(choice.precision) if rewrite else None,
            lambda content: _compile(path, content, choice, threads or default_threads()),
        )
        compiled, rewrites = self._open()
        self._request: openvino.InferRequest | None = compiled.create_infer_request()
        version = str(sdk.__version__).split("-", 1)[0]
        super().__init__(graph_runner_spec(model, choice, version, "cpu", path, graph=graph, rewrites=rewrites))

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._request is None:  # memory ran out the last time
            self._request = self._open()[0].create_infer_request()
        request = self._request
        sdk = require(PACKAGE, PURPOSE)
        encoded = encode_input(lr_NCHW, self.spec.dtype)  # kept alive by name: the request reads it in place
        try:
            request.set_input_tensor(sdk.Tensor(encoded, shared_memory=True))
            # Not `infer`: when memory runs out that returns the result before, and says nothing (2026.4).
            request.start_async()
            request.wait()
            sr = np.array(request.get_output_tensor().data)
        except (RuntimeError, MemoryError) as error:
            failure = inference_error(self.spec, lr_NCHW.shape, error)
            if isinstance(failure, OutOfMemoryError):  # it asks for the same memory for any shape from then on
                self._request = None
            raise failure from error
        return decode_output(sr)

    def _release(self) -> None:
        self._request = None


def why_not_computed(choice: BackendChoice) -> str | None:
    """Why OpenVINO does not compute so on this CPU; None if it does. OpenVINO must be installed."""
    if choice.precision == "fp16":
        return (
            "openvino:fp16 would be no FP16: OpenVINO's CPU plugin computes FP16 graphs in FP32; "
            "use openvino:fp32, openvino:bf16 or onnxruntime:fp16"
        )
    if "bf16" in (choice.precision, choice.floats) and "BF16" not in _cpu_capabilities():
        instead = "openvino:int8" if choice.floats else "openvino:fp32"
        return f"{choice} needs a CPU with bf16 instructions, and this one has none; use {instead}"
    return None


def _find_rewrites(precision: Precision) -> RewriteOptions | None:
    """What suits the plugin best; None: the file as it is, and nothing of the rewrites is imported."""
    if precision not in ("fp32", "bf16"):
        return None
    from sr_deploy.graph.rewrite import FOR_OPENVINO, FOR_OPENVINO_BF16

    return FOR_OPENVINO if precision == "fp32" else FOR_OPENVINO_BF16


@functools.cache
def _cpu_capabilities() -> tuple[str, ...]:
    core = open_core()
    return tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _compile(path: Path, content: Path | bytes, choice: BackendChoice, threads: int) -> openvino.CompiledModel:
    """The file itself, or bytes made of it; `path` is for messages."""
    try:
        return compile_graph(content, _HINTS[choice.floats or choice.precision], threads)
    except RuntimeError as error:
        raise BackendError(f"openvino cannot load {path}: {first_line(error)}") from error
