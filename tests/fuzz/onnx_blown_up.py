"""ONNX graphs that ask for more memory or time than their size lets expect, each drawn from a random stream."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.fuzz.onnx_graphs import BASES, Draft


def _grow(op: str) -> Callable[[random.Random], onnx.ModelProto]:
    """A graph whose image passes through a constant that one node, or a chain of them, makes large."""

    def make(draw: random.Random) -> onnx.ModelProto:
        draft = Draft()
        large = draw.choice((2**14, 2**20, 2**26, 2**31, 2**40))
        many = draw.choice((3, 12, 40))
        if op == "Range":
            grown = draft.add("Range", np.array(0), np.array(large), np.array(1))
        elif op in ("Expand", "Tile"):
            grown = draft.add(op, np.zeros((1, 1), np.float32), np.array([large, draw.choice((1, 2, 1000))]))
        elif op == "Pad":
            grown = draft.add("Pad", np.zeros(3, np.float32), np.array([large, large]))
        elif op == "Concat":
            grown = draft.add("ConstantOfShape", np.array([draw.choice((10, 10**6))]))
            for _ in range(many):
                grown = draft.add("Concat", *[grown] * draw.choice((2, 8)), axis=0)
        elif op == "Resize":
            scales = np.array([1, 1, large, draw.choice((1, 1000))], np.float32)
            grown = draft.add("Resize", np.zeros((1, 1, 2, 2), np.float32), "", scales)
        elif op == "MatMul":
            side = draw.choice((2000, 20000))
            grown = draft.add("ConstantOfShape", np.array([side, side]))
            for _ in range(many):
                grown = draft.add("MatMul", grown, grown)
        else:
            grown = draft.add("ConstantOfShape", np.array([large] * draw.choice((1, 2, 3))))
        if draw.random() < 0.5:
            grown = draft.add("Add", draft.add("Cast", draft.add("Size", grown), to=1), np.float32(0))
        else:
            grown = draft.add("ReduceMax", draft.add("Cast", grown, to=1), keepdims=0)
        return draft.finish(draft.add("Add", draft.add("Mul", grown, np.float32(0)), "x"))

    return make


def _grow_image(draw: random.Random) -> onnx.ModelProto:
    """The image itself becomes large, and small again at the end."""
    draft = Draft()
    many = draw.choice((20, 300, 10**4))
    large = draft.add("Expand", draft.add("Unsqueeze", "x", np.array([4])), np.array([1, 1, 1, 1, many]))
    if draw.random() < 0.5:
        large = draft.add("Tile", large, np.array([1, 1, 1, 1, many]))
    return draft.finish(draft.add("ReduceMean", large, np.array([4]), keepdims=0), opset=18)


def _make_endless(draw: random.Random) -> onnx.ModelProto:
    draft = Draft()
    inside = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "x"], ["w"])]
    flag = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("v", "w")]
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(inside, "body", [count, flag[0], value[0]], [flag[1], value[1]])
    trips = np.array(draw.choice((10, 2**30, 2**62)))
    return draft.finish(draft.add("Loop", trips, np.array(True), "x", body=body))


def _nest(draw: random.Random) -> onnx.ModelProto:
    source = helper.make_empty_tensor_value_info("b")
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "leaf", [], [source])
    for _ in range(draw.choice((3, 12, 25))):
        node = helper.make_node(
            "If",
            ["c0"],
            ["b"],
            then_branch=inner,
            else_branch=inner
            if draw.random() < 0.2
            else helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "leaf", [], [source]),
        )
        inner = helper.make_graph([node], "branch", [], [source])
    draft = Draft()
    return draft.finish(draft.add("If", np.array(True), then_branch=inner, else_branch=inner))


def _call_doubling(draw: random.Random) -> onnx.ModelProto:
    """Functions that call each other twice: 2^depth nodes once they are written out."""
    draft = Draft()
    depth = draw.choice((5, 20, 60))
    model = draft.finish(draft.add("F0", "x", domain="own"))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(depth):
        last = draw.random() < 0.1 if level + 1 < depth else True
        op, domain = ("Identity", "") if last else (f"F{level + 1}", "own")
        nodes = [helper.make_node(op, ["a"], ["m"], domain=domain), helper.make_node(op, ["m"], ["b"], domain=domain)]
        model.functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], nodes, imports))
    if draw.random() < 0.3:
        model.functions[-1].node[0].op_type, model.functions[-1].node[0].domain = "F0", "own"  # and round again
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def _chain(draw: random.Random) -> onnx.ModelProto:
    """Many small nodes, many empty ones, or many that nobody needs."""
    model = BASES["compact"]()
    many = draw.choice((10**3, 2 * 10**4, 3 * 10**5))
    kind = draw.randrange(4)
    if kind == 0:
        model.graph.MergeFromString(bytes((1 << 3 | 2, 0)) * many)
        return model
    if kind == 1:
        names = [model.graph.output[0].name, *(f"idle{index}" for index in range(min(many, 14000)))]
        model.graph.node.extend(helper.make_node("Identity", [one], [other]) for one, other in pairwise(names))
        return model
    draft = Draft()
    for index in range(min(many, 2 * 10**4)):
        draft.add(draw.choice(("Identity", "Abs", "Neg")), f"t{index - 1}" if index else "x")
    return draft.finish(f"t{len(draft.nodes) - 1}")


def _make_sides(draw: random.Random) -> onnx.ModelProto:
    """Declared sides and stored shapes that nobody has."""
    model = BASES["compact"]()
    sides = model.graph.input[0].type.tensor_type.shape.dim
    for place in draw.sample((0, 2, 3), draw.choice((1, 2, 3))):
        sides[place].dim_value = draw.choice((1, 70000, 10**6, 2**31, 2**40, 2**62, -5))
    if draw.random() < 0.5:
        draw.choice(model.graph.initializer).dims[:] = [draw.choice((2**16, 2**31, 2**62)) for _ in range(2)]
    return model


def _divide_by_zero(draw: random.Random) -> onnx.ModelProto:
    """Integers divided by zero, in constants or along the shape of the picture."""
    draft = Draft()
    kind = draw.choice((np.int32, np.int64))
    by = np.array(draw.choice((0, -1)), kind)
    source = (
        np.array(np.iinfo(kind).min, kind)
        if draw.random() < 0.5
        else draft.add("Cast", draft.add("Size", "x"), to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    )
    odd = draft.add("Cast", draft.add(draw.choice(("Div", "Mod")), source, by), to=1)
    return draft.finish(draft.add("Add", "x", draft.add("Mul", odd, np.float32(0))))


BLOWN_UP: dict[str, Callable[[random.Random], onnx.ModelProto]] = {
    **{f"large-{op.lower()}": _grow(op) for op in ("Range", "Expand", "Tile", "Pad", "Concat", "Resize", "MatMul")},
    "large-constantofshape": _grow("ConstantOfShape"),
    "large-image": _grow_image,
    "endless": _make_endless,
    "nested": _nest,
    "doubling": _call_doubling,
    "long": _chain,
    "sides": _make_sides,
    "zero": _divide_by_zero,
}
"""By name."""
