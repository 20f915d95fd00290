"""True 16-bit storage for any graph: FP32 arithmetic in ONNX Runtime with every result rounded. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.deps import require
from sr_deploy.errors import BackendError
from sr_deploy.graph.load import load_model
from sr_deploy.graph.rounded import ROUNDED, spell_rounding
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.ends import decode_output, encode_input
from sr_deploy.runners.onnxruntime_runner import open_session
from sr_deploy.runners.shapes import graph_runner_spec
from sr_deploy.runners.threads import default_threads

if TYPE_CHECKING:
    import onnxruntime


class RoundedRunner(BaseRunner):
    """A 16-bit or mixed graph as its file has it, layers planned in FP32 and all, on the CPU.

    PyTorch in half runs the whole network in one type, and ONNX Runtime leaves out roundings: neither says what a graph
    with planned layers computes. Here each result is rounded as the graph stores it; sums inside a layer are FP32.
    """

    def __init__(self, model: Model, precision: Precision, threads: int | None = None) -> None:
        """Load the graph of that precision.

        Raises:
            BackendError: no such graph, or ONNX Runtime refuses it.
            GraphError: the type of a tensor cannot be inferred.
        """
        import onnx

        ort = require("onnxruntime", "the onnxruntime backend")
        path = model.graph_path(precision)
        graph = load_model(path)
        onnx.load_external_data_for_model(graph, str(path.parent))
        spell_rounding(graph)
        session = open_session(path, graph.SerializeToString(), "cpu", threads or default_threads(), optimise=True)
        self._session: onnxruntime.InferenceSession | None = session
        self._input = session.get_inputs()[0].name
        choice = BackendChoice("onnxruntime", precision)
        super().__init__(graph_runner_spec(model, choice, str(ort.__version__), "cpu", path, rewrites=(ROUNDED,)))

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
