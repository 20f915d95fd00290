"""Graphs made node by node, and networks exported as other people export them."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec


class GraphMaker:
    """Writes small ONNX files: give nodes and constants, get a path."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def __call__(
        self,
        nodes,
        constants=None,
        *,
        input_shape=("n", 3, "h", "w"),
        dtype=TensorProto.FLOAT,
        output_dtype=None,
        opset=17,
        extra_inputs=(),
        outputs=("y",),
        metadata=None,
    ):
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", dtype, input_shape), *extra_inputs],
            [helper.make_tensor_value_info(name, output_dtype or dtype, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        self.count += 1
        path = self.folder / f"graph{self.count}.onnx"
        onnx.save(model, path)
        return path


@pytest.fixture
def make_graph(tmp_path):
    return GraphMaker(tmp_path)


def kernel(out_channels, in_channels, size, dtype=np.float32):
    """A convolution's weight, with values that differ."""
    count = out_channels * in_channels * size * size
    return (np.arange(count).reshape(out_channels, in_channels, size, size) % 7 - 3).astype(dtype) / 10


def export_old_way(network, channels, path, *, opset=13, names=("x", "y"), side=16):
    """With torch's old exporter, whose graphs most published files are made by."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.rand(1, channels, side, side),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={names[0]: {0: "n", 2: "h", 3: "w"}, names[1]: {0: "n", 2: "hs", 3: "ws"}},
        )
    return path


def positive_network(spec):
    """Weights of one sign, so that no two ways from an input pixel to an output pixel cancel."""
    network = build_network(spec).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if "num_batches" in name:
            continue
        if tensor.dim() == 4:
            tensor.fill_(1 / tensor.shape[1])
        elif "running_mean" in name or name.endswith("bias"):
            tensor.zero_()
        else:
            tensor.fill_(1.0)
    return network


def spec_of(architecture, scale, **changes):
    fields = {"architecture": architecture, "scale": scale, "features": 4, "blocks": 1}
    if architecture == "rrdbnet":
        fields["growth"] = 2
    return ArchSpec(**(fields | changes))


@pytest.fixture
def tools():
    """The functions above, for tests: with importlib's import mode a conftest cannot be imported."""
    return SimpleNamespace(
        kernel=kernel, export_old_way=export_old_way, positive_network=positive_network, spec_of=spec_of
    )
