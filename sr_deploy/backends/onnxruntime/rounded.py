"""True 16-bit storage for any graph: FP32 arithmetic in ONNX Runtime with every result rounded. No torch here."""

from __future__ import annotations

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.onnxruntime import PACKAGE
from sr_deploy.backends.onnxruntime.runner import SessionRunner, open_session
from sr_deploy.backends.onnxruntime.session import PURPOSE
from sr_deploy.deps import require
from sr_deploy.graph.load import holding_errors, load_whole_model
from sr_deploy.graph.rounded import ROUNDED, insert_rounding
from sr_deploy.model import Model
from sr_deploy.runners.shapes import examine_graph, graph_runner_spec
from sr_deploy.runners.threads import default_threads


class RoundedRunner(SessionRunner):
    """A 16-bit or mixed graph as its file has it, layers planned in FP32 and all, on the CPU.

    PyTorch in half runs the whole network in one type, and ONNX Runtime leaves out roundings: neither says what a graph
    with planned layers computes. Here each result is rounded as the graph stores it; sums inside a layer are FP32.
    """

    def __init__(self, model: Model, precision: Precision, threads: int | None = None) -> None:
        """Load the graph of that precision.

        Raises:
            BackendError: no such graph, or ONNX Runtime refuses it.
            GraphError: the file is damaged, or the type of a tensor cannot be inferred.
        """
        ort = require(PACKAGE, PURPOSE)
        path = model.graph_path(precision)
        info = examine_graph(model, path, "cpu")
        graph = load_whole_model(path)
        with holding_errors(path):
            insert_rounding(graph)
            content = graph.SerializeToString()
        session = open_session(path, content, "cpu", threads or default_threads(), optimize=True)
        choice = BackendChoice("onnxruntime", precision)
        spec = graph_runner_spec(model, choice, str(ort.__version__), "cpu", path, graph=info, rewrites=(ROUNDED,))
        super().__init__(session, spec)
