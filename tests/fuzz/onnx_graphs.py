"""Sound ONNX graphs of several kinds, made node by node: what damaged files begin as."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray


class Draft:
    """Nodes and constants of a graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def add(self, op: str, *inputs: str | Array, outputs: int = 1, **attributes: object) -> str:
        """A node; arrays become constants. Returns the name of the first result."""
        names = [one if isinstance(one, str) else self._store(one) for one in inputs]
        made = [f"t{len(self.nodes)}" if index == 0 else f"t{len(self.nodes)}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, names, made, name=f"node{len(self.nodes)}", **attributes))
        return made[0]

    def conv(self, source: str, out: int, channels: int, side: int = 3, **attributes: object) -> str:
        """A convolution near the identity, so that pictures stay pictures."""
        weight = np.random.default_rng(len(self.nodes)).normal(0, 0.02, (out, channels, side, side))
        weight[np.arange(out), np.arange(out) % channels, side // 2, side // 2] += 1
        pads = [side // 2] * 4
        return self.add("Conv", source, weight.astype(np.float32), np.zeros(out, np.float32), pads=pads, **attributes)

    def _store(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def finish(
        self, result: str, shape: tuple[str | int, ...] = ("n", 3, "h", "w"), opset: int = 17, listed: bool = False
    ) -> onnx.ModelProto:
        """The model; `listed`: constants stand among the inputs, as old exporters put them."""
        self.nodes[-1].output[0] = "y"
        assert result == f"t{len(self.nodes) - 1}"
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        if listed:
            inputs += [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in constants]
        graph = helper.make_graph(
            self.nodes, "graph", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _make_compact() -> onnx.ModelProto:
    draft = Draft()
    first = draft.add("PRelu", draft.conv("x", 8, 3), np.full((8, 1, 1), 0.1, np.float32))
    wide = draft.conv(first, 12, 8)
    skip = draft.add("Resize", "x", "", np.array([1, 1, 2, 2], np.float32), mode="nearest")
    halved = draft.add("Mul", draft.add("DepthToSpace", wide, blocksize=2, mode="CRD"), np.float32(0.01))
    return draft.finish(draft.add("Add", halved, skip))


def _make_dense() -> onnx.ModelProto:
    draft = Draft()
    first = draft.conv("x", 8, 3)
    grown = draft.add("LeakyRelu", draft.conv(first, 4, 8), alpha=0.2)
    joined = draft.conv(draft.add("Concat", first, grown, axis=1), 8, 12)
    summed = draft.add("Add", draft.add("Mul", joined, np.float32(0.2)), first)
    large = draft.add("Resize", summed, "", np.array([1, 1, 2, 2], np.float32), mode="nearest")
    return draft.finish(draft.add("Clip", draft.conv(large, 3, 8), np.float32(0), np.float32(1)), listed=True, opset=13)


def _make_unshuffled() -> onnx.ModelProto:
    """Pixel-unshuffle in shape arithmetic, after a padding computed with Mod, and cropped at the end."""
    draft = Draft()
    sides = draft.add("Slice", draft.add("Shape", "x"), np.array([2]), np.array([4]))
    missing = draft.add("Mod", draft.add("Neg", sides), np.array([2, 2]))
    pads = draft.add("Concat", np.zeros(6, np.int64), missing, axis=0)
    padded = draft.add("Pad", "x", pads, np.float32(0))
    parts = [draft.add("Gather", draft.add("Shape", padded), np.array(axis), axis=0) for axis in (2, 3)]
    halves = [draft.add("Unsqueeze", draft.add("Div", one, np.array(2)), np.array([0])) for one in parts]
    split = draft.add("Concat", np.array([-1, 3]), halves[0], np.array([2]), halves[1], np.array([2]), axis=0)
    blocks = draft.add("Transpose", draft.add("Reshape", padded, split), perm=[0, 1, 3, 5, 2, 4])
    merged = draft.add("Reshape", blocks, draft.add("Concat", np.array([-1, 12]), *halves, axis=0))
    body = draft.add("DepthToSpace", draft.conv(merged, 48, 12), blocksize=4, mode="CRD")
    ends = draft.add("Mul", sides, np.array([2, 2]))
    return draft.finish(draft.add("Slice", body, np.array([0, 0]), ends, np.array([2, 3]), np.array([1, 1])))


def _make_quantized() -> onnx.ModelProto:
    draft = Draft()
    scale, zero = np.float32(1 / 127), np.int8(0)
    codes = draft.add("QuantizeLinear", "x", scale, zero)
    weight = np.zeros((12, 3, 3, 3), np.int8)
    weight[np.arange(12), np.arange(12) % 3, 1, 1] = 127
    kernel = draft.add("DequantizeLinear", weight, np.full(12, 1 / 127, np.float32), np.zeros(12, np.int8), axis=0)
    summed = draft.add("Conv", draft.add("DequantizeLinear", codes, scale, zero), kernel, pads=[1] * 4)
    return draft.finish(draft.add("DepthToSpace", summed, blocksize=2, mode="DCR"), opset=19)


def _make_fp16() -> onnx.ModelProto:
    draft = Draft()
    half = draft.add("Cast", "x", to=TensorProto.FLOAT16)
    weight = np.zeros((12, 3, 1, 1), np.float16)
    weight[np.arange(12), np.arange(12) % 3] = 1
    body = draft.add("Relu", draft.add("Conv", half, weight))
    return draft.finish(
        draft.add("Cast", draft.add("DepthToSpace", body, blocksize=2), to=TensorProto.FLOAT), ("n", 3, "h", 64)
    )


def _make_attentive() -> onnx.ModelProto:
    """Attention over channels, a transposed convolution, fixed sides, and a branch."""
    draft = Draft()
    body = draft.conv("x", 8, 3, auto_pad="NOTSET")
    mean = draft.add("GlobalAveragePool", body)
    gate = draft.add("Sigmoid", draft.conv(mean, 8, 8, 1))
    taken = helper.make_graph(
        [helper.make_node("Mul", [body, gate], ["b"])], "branch", [], [helper.make_empty_tensor_value_info("b")]
    )
    branch = draft.add("If", np.array(True), then_branch=taken, else_branch=taken)
    weight = np.zeros((8, 3, 2, 2), np.float32)
    weight[np.arange(3), np.arange(3)] = 1
    return draft.finish(draft.add("ConvTranspose", branch, weight, strides=[2, 2]), (1, 3, 32, 32))


def _make_functional() -> onnx.ModelProto:
    """A function of the file's own, and a constant node."""
    draft = Draft()
    draft.add("Twice", "x", domain="own")
    slope = draft.add("Constant", value=numpy_helper.from_array(np.full((3, 1, 1), 0.5, np.float32)))
    body = draft.add("PRelu", "t0", slope)
    scales = draft.add("Constant", value_floats=[1.0, 1.0, 2.0, 2.0])
    model = draft.finish(draft.add("Resize", body, "", scales, mode="linear"))
    inside = [helper.make_node("Identity", ["a"], ["m"]), helper.make_node("Abs", ["m"], ["b"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], inside, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


BASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "compact": _make_compact,
    "dense": _make_dense,
    "unshuffled": _make_unshuffled,
    "quantized": _make_quantized,
    "half": _make_fp16,
    "attentive": _make_attentive,
    "functional": _make_functional,
}
"""Sound graphs: each is taken as it is."""
