"""Small random graphs, and the check that a rewritten one gives what the plain one gives."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.rewrite import NOTHING, rewrite_model

FLOAT = TensorProto.FLOAT


class Builder:
    """Writes a graph node by node, with random weights; constants are initializers or Constant nodes."""

    def __init__(self, seed, *, channels=3, opset=17, constant_nodes=False):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.initializers = [], []
        self.opset, self.constant_nodes, self.channels, self.count = opset, constant_nodes, channels, 0

    def name(self, kind):
        self.count += 1
        return f"{kind}{self.count}"

    def constant(self, value, dtype=np.float32):
        name, array = self.name("c"), np.asarray(value, dtype=dtype)
        if self.constant_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape):
        return self.constant(self.rng.uniform(-0.5, 0.5, shape))

    def add(self, op_type, *inputs, **attributes):
        name = self.name(op_type.lower())
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, source, inputs, outputs, kernel=3, *, bias=True, pads=None, group=1, **attributes):
        weight = self.random(outputs, inputs // group, kernel, kernel)
        biases = [self.random(outputs)] if bias else []
        pads = [kernel // 2] * 4 if pads is None else list(pads)
        return self.add("Conv", source, weight, *biases, pads=pads, group=group, **attributes)

    def enlarge(self, source, factor=2, where="asymmetric", rounding="floor"):
        scales = self.constant([1, 1, factor, factor])
        return self.add(
            "Resize",
            source,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode=where,
            nearest_mode=rounding,
        )

    def model(self, *outputs):
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", FLOAT, ["n", self.channels, "h", "w"])],
            [helper.make_tensor_value_info(name, FLOAT, [None] * 4) for name in outputs],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def run_model(model, lr_NCHW):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: lr_NCHW})


def rewritten(model, options):
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    report = rewrite_model(copied, options)
    onnx.checker.check_model(copied)
    return copied, report


def assert_same(model, options, shape, *, times=None, tolerance=1e-5):
    """The rewritten graph gives the same to `tolerance` of the largest value; returns it."""
    copied, report = rewritten(model, options)
    lr_NCHW = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
    for plain, new in zip(run_model(model, lr_NCHW), run_model(copied, lr_NCHW), strict=True):
        assert new.shape == plain.shape
        assert np.abs(new - plain).max(initial=0) <= tolerance * max(np.abs(plain).max(initial=0), 1e-3)
    if times is not None:
        assert {step.name: step.times for step in report.applied} == times
    return copied


@pytest.fixture(scope="session")
def make():
    return SimpleNamespace(
        Builder=Builder, run_model=run_model, rewritten=rewritten, assert_same=assert_same, nothing=NOTHING
    )
