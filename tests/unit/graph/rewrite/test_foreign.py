"""Random graphs of any structure: rewrites do not change their results."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from sr_deploy.errors import GraphError
from sr_deploy.graph.rewrite import DEFAULT, FOR_ONNXRUNTIME, FOR_OPENVINO, rewrite_model

EVERYTHING = replace(FOR_OPENVINO, prelu="decompose", channels=8, concat=0)
OPTIONS = {"default": DEFAULT, "openvino": FOR_OPENVINO, "onnxruntime": FOR_ONNXRUNTIME, "everything": EVERYTHING}
LIMIT = 16  # output pixels per input pixel along a side
seen = {}


class Grower:
    """Adds random nodes to a graph; tensors keep their channels and their size relative to the picture."""

    def __init__(self, builder, draw):
        self.b, self.draw = builder, draw
        self.tensors = [("x", 3, 1)]

    def pick(self, values):
        return self.draw(st.sampled_from(values))

    def source(self):
        # The newest more often: chains are where patterns are.
        return self.pick([*self.tensors, *self.tensors[-1:] * 4])

    def grow(self):
        source, channels, size = self.source()
        kinds = ["conv", "conv", "conv", "act", "scale", "add", "concat", "resize", "shuffle", "skip", "block", "up"]
        getattr(self, f"grow_{self.pick(kinds)}")(source, channels, size)

    def keep(self, name, channels, size):
        self.tensors.append((name, channels, size))

    def grow_conv(self, source, channels, size):
        kernel = self.pick([3, 3, 1, 5])
        outputs = self.pick([3, 4, 12, channels])
        group = self.pick([1, 1, 1, channels]) if outputs == channels else 1
        extra = self.pick([{}, {}, {}, {"auto_pad": "SAME_UPPER"}])
        bias = self.draw(st.booleans())
        if extra:
            weight = self.b.random(outputs, channels // group, kernel, kernel)
            name = self.b.add("Conv", source, weight, group=group, **extra)
        else:
            name = self.b.conv(source, channels, outputs, kernel, bias=bias, group=group)
        self.keep(name, outputs, size)

    def grow_act(self, source, channels, size):
        kind = self.pick(["LeakyRelu", "Relu", "PRelu", "Sigmoid", "Clip"])
        slope = [self.b.random(*self.pick([(1,), (channels, 1, 1), (1, channels, 1, 1)]))] if kind == "PRelu" else []
        self.keep(self.b.add(kind, source, *slope), channels, size)

    def grow_scale(self, source, channels, size):
        factor = self.b.random(*self.pick([(), (1,), (channels, 1, 1), (1, 1, 1, 1)]))
        self.keep(self.b.add(self.pick(["Mul", "Add"]), source, factor), channels, size)

    def grow_add(self, source, channels, size):
        others = [one for one in self.tensors if one[1:] == (channels, size)]
        self.keep(self.b.add(self.pick(["Add", "Add", "Mul"]), self.pick(others)[0], source), channels, size)

    def grow_concat(self, source, channels, size):
        others = [one for one in self.tensors if one[2] == size]
        chosen = [self.pick(others) for _ in range(self.pick([1, 2]))]
        total = channels + sum(one[1] for one in chosen)
        self.keep(self.b.add("Concat", source, *(one[0] for one in chosen), axis=1), total, size)

    def grow_resize(self, source, channels, size):
        factor = self.pick([2, 2, 3])
        if size * factor <= LIMIT:
            where, rounding = self.pick(
                [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "ceil")]
            )
            self.keep(self.b.enlarge(source, factor, where, rounding), channels, size * factor)

    def grow_shuffle(self, source, channels, size):
        if channels % 4 == 0 and size * 2 <= LIMIT:
            name = self.b.add("DepthToSpace", source, blocksize=2, mode=self.pick(["CRD", "DCR"]))
            self.keep(name, channels // 4, size * 2)

    def grow_skip(self, source, channels, size):
        if size * 2 <= LIMIT:
            large = self.b.conv(source, channels, channels * 4)
            shuffled = self.b.add("DepthToSpace", large, blocksize=2, mode=self.pick(["CRD", "DCR"]))
            self.keep(self.b.add("Add", shuffled, self.b.enlarge(source)), channels, size * 2)

    def grow_up(self, source, channels, size):
        if size * 2 <= LIMIT:
            outputs = self.pick([3, 6])
            name = self.b.conv(self.b.enlarge(source), channels, outputs)
            self.keep(self.b.add("LeakyRelu", name) if outputs == 6 else name, outputs, size * 2)

    def grow_block(self, source, channels, size):
        first = self.b.add("LeakyRelu", self.b.conv(source, channels, 4), alpha=0.2)
        last = self.b.conv(self.b.add("Concat", source, first, axis=1), channels + 4, channels)
        scaled = self.b.add("Mul", last, self.b.constant(0.2)) if self.draw(st.booleans()) else last
        self.keep(self.b.add("Add", scaled, source), channels, size)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 2**20), nodes=st.integers(3, 14), constant_nodes=st.booleans())
def test_random_graphs_give_the_same(make, data, seed, nodes, constant_nodes):
    builder = make.Builder(seed, constant_nodes=constant_nodes, opset=data.draw(st.sampled_from([13, 17, 20])))
    grower = Grower(builder, data.draw)
    for _ in range(nodes):
        grower.grow()
    last = builder.add("Identity", grower.tensors[-1][0])
    middle = {grower.source()[0] for _ in range(data.draw(st.integers(0, 1)))} - {"x"}
    model = builder.model(last, *sorted(middle))
    side = st.integers(1, 4)
    shape = (data.draw(st.integers(1, 2)), 3, data.draw(side), data.draw(side))
    for name, options in OPTIONS.items():
        make.assert_same(model, options, shape, tolerance=2e-5)
        make.assert_same(make.rewritten(model, DEFAULT)[0], options, shape, tolerance=2e-5)
        _, report = make.rewritten(model, options)
        for step in report.applied:
            seen[name, step.name] = seen.get((name, step.name), 0) + step.times


def test_random_graphs_held_every_pattern():
    if not seen:
        pytest.skip("the test above did not run")
    found = {step for name, step in seen if name == "everything"}
    assert {"scales", "residual_taps", "nearest_skip", "narrow_output", "sub_pixel", "concat", "channels"} <= found


def test_old_graph_with_constants_among_its_inputs(make):
    b = make.Builder(3, opset=11)
    model = b.model(b.add("Mul", b.conv("x", 3, 4), b.constant(0.2)))
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, 1, list(tensor.dims)) for tensor in b.initializers
    )
    new = make.assert_same(model, DEFAULT, (1, 3, 5, 5), times={"scales": 1})
    assert [value.name for value in new.graph.input] == ["x"]


def test_shared_weight_keeps_its_other_use(make):
    b = make.Builder(4)
    weight = b.random(3, 3, 3, 3)
    first = b.add("Mul", b.add("Conv", "x", weight, pads=[1] * 4), b.constant(0.2))
    model = b.model(b.add("Conv", first, weight, pads=[1] * 4))
    new = make.assert_same(model, DEFAULT, (1, 3, 4, 4), times={"scales": 1})
    assert len(new.graph.initializer) == 2


def test_rewriting_twice_changes_nothing_more(make):
    b = make.Builder(5)
    large = b.add("LeakyRelu", b.conv(b.enlarge(b.conv("x", 3, 4)), 4, 4))
    model = b.model(b.conv(large, 4, 3))
    options = replace(DEFAULT, sub_pixel="shuffle")
    once, report = make.rewritten(model, options)
    assert {step.name for step in report.applied} == {"sub_pixel", "narrow_output"}
    twice, again = make.rewritten(once, options)
    assert again.applied == ()
    assert twice.SerializeToString() == once.SerializeToString()


def test_deep_and_nested_residuals_are_followed(make):
    b = make.Builder(8)
    x = b.conv("x", 3, 4)
    for _ in range(40):  # every sum joins two ways that join again further up
        x = b.add("Add", b.add("Add", b.add("Mul", x, b.constant(0.5)), x), x)
    for _ in range(1500):
        x = b.add("Relu", x)
    joined = b.add("Concat", x, "x", axis=1)
    model = b.model(b.conv(b.conv(joined, 7, 4), 4, 3))
    copied, report = make.rewritten(model, replace(DEFAULT, concat=0))
    assert {step.name: step.times for step in report.applied} == {"concat": 1}
    assert [node.op_type for node in copied.graph.node].count("Concat") == 0


def test_old_opset_is_refused(make):
    b = make.Builder(6, opset=10)
    model = b.model(b.conv("x", 3, 4))
    with pytest.raises(GraphError, match="rewrites need opset 11 or later, not 10"):
        rewrite_model(model)


def test_weights_in_files_beside_are_left_alone(make):
    b = make.Builder(7)
    model = b.model(b.add("Mul", b.conv("x", 3, 4), b.constant(0.2)))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    assert rewrite_model(model).applied == ()
