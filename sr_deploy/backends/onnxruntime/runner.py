"""ONNX Runtime on the CPU or, asked for or found, with its CUDA provider. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.description import GraphOptions
from sr_deploy.backends.onnxruntime import PACKAGE
from sr_deploy.backends.onnxruntime.session import CPU, PURPOSE, make_session
from sr_deploy.deps import require
from sr_deploy.errors import BackendError, first_line
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.io_conversion import decode_output, encode_input
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.runners.rewritten import open_rewritten
from sr_deploy.runners.shapes import examine_graph, graph_runner_spec
from sr_deploy.runners.threads import default_threads

if TYPE_CHECKING:
    import onnxruntime

_CUDA = "CUDAExecutionProvider"
_MOST_PLANNED = 256
"""Nodes of the largest graphs whose memory ONNX Runtime plans ahead (`session.make_session`)."""


class SessionRunner(BaseRunner):
    """Any session with one image in and one out."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: RunnerSpec) -> None:
        """Take over an open session and what it is."""
        self._session: onnxruntime.InferenceSession | None = session
        self._input = session.get_inputs()[0].name
        super().__init__(spec, splits_batches=spec.device == "cpu")

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._session is None:
            raise BackendError(f"this {self.spec} runner is closed; open another")
        try:
            (sr,) = self._session.run(None, {self._input: encode_input(lr_NCHW, self.spec.dtype)})
        except Exception as error:  # its exceptions share no base class
            raise inference_error(self.spec, lr_NCHW.shape, error) from error
        return decode_output(np.asarray(sr))

    def _release(self) -> None:
        self._session = None


class OnnxRuntimeRunner(SessionRunner):
    """A graph in ONNX Runtime.

    On a CPU it computes FP16 convolutions in FP32 and rounds between them at most: its fp16 figures flatter the graph.
    """

    def __init__(
        self,
        model: Model,
        choice: BackendChoice,
        device: str | None,
        threads: int | None,
        *,
        optimize: bool = True,
        rewrite: bool = True,
    ) -> None:
        """Load the graph of that precision.

        Args:
            model: has the graph.
            choice: which one.
            device: `cpu` or `cuda:0`; None: the GPU where the CUDA provider runs.
            threads: of the CPU; None: one a core.
            optimize: False computes it node by node as it is written, and rewrites nothing.
            rewrite: whether FP32 graphs are rewritten for the CPU first.

        Raises:
            BackendError: no such graph, a device that is not there, or ONNX Runtime refuses the graph.
        """
        from sr_deploy.graph.rewrite import FOR_ONNXRUNTIME

        ort = require(PACKAGE, PURPOSE)
        path = model.graph_path(choice.precision)
        device = device or ("cuda:0" if why_no_cuda_provider() is None else "cpu")
        threads = threads or default_threads()
        graph = examine_graph(model, path, device)
        session, rewrites = open_rewritten(
            path,
            FOR_ONNXRUNTIME if rewrite and optimize and device == "cpu" and choice.precision == "fp32" else None,
            lambda content: open_session(
                path, content, device, threads, optimize, plan_memory=graph.nodes <= _MOST_PLANNED
            ),
        )
        spec = graph_runner_spec(model, choice, str(ort.__version__), device, path, graph=graph, rewrites=rewrites)
        super().__init__(session, spec)


def why_no_cuda_provider() -> str | None:
    """Why ONNX Runtime runs on no GPU here; None if it does."""
    ort = require(PACKAGE, PURPOSE)
    if _CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider; run: pip install onnxruntime-gpu"
    return None if visible_gpus() else "this machine has no NVIDIA GPU with a driver that works"


def open_session(
    path: Path, content: Path | bytes, device: str, threads: int, optimize: bool, *, plan_memory: bool = True
) -> onnxruntime.InferenceSession:
    """A session of the file itself, or of bytes made of it; `path` is for messages."""
    asked = GraphOptions(threads=threads, optimize=optimize, plan_memory=plan_memory)
    providers = _providers(device)
    try:
        session = make_session(content, asked, providers)
    except Exception as error:  # its exceptions share no base class
        raise BackendError(f"onnxruntime cannot load {path}: {first_line(error)}") from error
    # A provider that fails to start is left out with a warning only: what is asked for is what must run.
    if device != "cpu" and _CUDA not in session.get_providers():
        raise BackendError(
            f"onnxruntime could not start its CUDA provider for {path} (it would run on the CPU instead); "
            "check that the CUDA and cuDNN versions are those of this onnxruntime-gpu, or give the device 'cpu'"
        )
    return session


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return [CPU]
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise BackendError(f"onnxruntime runs on cpu or cuda here, not on {device!r}")
    reason = why_no_cuda_provider()
    if reason is not None:
        raise BackendError(f"onnxruntime cannot use {device!r}: {reason}")
    return [(_CUDA, {"device_id": index or "0", "use_tf32": "0"}), CPU]
