"""Each rewrite for itself: equal to the plain graph where its pattern holds, not applied where it does not."""

# ruff: noqa: PLR0917 (hypothesis hands over by name)
from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from sr_deploy.graph.rewrite import NOTHING, append_halving, rewrite_model

quick = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sides = st.integers(1, 6)
seeds = st.integers(0, 2**20)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


@quick
@given(seed=seeds, h=sides, w=sides, bias=st.booleans(), constant_nodes=st.booleans(), form=st.integers(0, 3))
def test_scale_joins_the_convolution_before_it(make, seed, h, w, bias, constant_nodes, form):
    b = make.Builder(seed, constant_nodes=constant_nodes)
    conv = b.conv("x", 3, 4, bias=bias)
    factor = [b.constant(0.2), b.random(1, 4, 1, 1), b.random(4, 1, 1), b.constant([0.2])][form]
    scaled = b.add("Mul", *((conv, factor) if seed % 2 else (factor, conv)))
    model = b.model(b.add("Add", scaled, b.conv("x", 3, 4)))
    new = make.assert_same(model, replace(NOTHING, scales=True), (2, 3, h, w), times={"scales": 1})
    assert operators(new)["Mul"] == 0


def test_division_is_a_scale(make):
    b = make.Builder(0)
    model = b.model(b.add("Div", b.conv("x", 3, 4), b.constant(3.0)))
    make.assert_same(model, replace(NOTHING, scales=True), (1, 3, 4, 4), times={"scales": 1})


@pytest.mark.parametrize("case", ["two users", "output", "wide factor", "row factor", "zero divisor", "other weight"])
def test_scale_is_left_alone(make, case):
    b = make.Builder(1)
    conv = b.conv("x", 3, 4)
    outputs = []
    if case == "two users":
        outputs = [b.add("Relu", conv)]
    elif case == "output":
        outputs = [conv]
    elif case == "other weight":
        conv = b.add("Conv", "x", b.add("Neg", b.random(4, 3, 1, 1)))
    factor = {"wide factor": b.random(1, 4, 1, 5), "row factor": b.random(5)}.get(case, b.constant(0.2))
    if case == "zero divisor":
        factor = b.constant([0.0])
        model = b.model(b.add("Add", b.add("Div", b.conv("x", 3, 4), b.constant(2.0)), b.conv("x", 3, 4)))
        zero = make.Builder(2)
        zero_model = zero.model(zero.add("Div", zero.conv("x", 3, 4), zero.constant([0.0])))
        assert make.rewritten(zero_model, replace(NOTHING, scales=True))[1].applied == ()
        return
    model = b.model(b.add("Mul", conv, factor), *outputs)
    make.assert_same(model, replace(NOTHING, scales=True), (1, 3, 5, 5), times={})


@quick
@given(
    seed=seeds,
    h=sides,
    w=sides,
    bias=st.booleans(),
    act=st.sampled_from(["", "LeakyRelu", "Relu", "PRelu"]),
    where=st.sampled_from(["asymmetric", "half_pixel", "pytorch_half_pixel"]),
    form=st.sampled_from(["shuffle", "transposed"]),
)
def test_sub_pixels_keep_the_border(make, seed, h, w, bias, act, where, form):
    b = make.Builder(seed)
    large = b.enlarge("x", 2, where, "floor" if where == "asymmetric" else "round_prefer_floor")
    y = b.conv(large, 3, 5, bias=bias)
    if act:
        y = b.add(act, y, *([b.random(5, 1, 1)] if act == "PRelu" else []))
    model = b.model(b.conv(y, 5, 3))
    new = make.assert_same(model, replace(NOTHING, sub_pixel=form), (2, 3, h, w), times={"sub_pixel": 1})
    assert operators(new)["Resize"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"factor": 3},
        {"factor": 4},
        {"where": "align_corners"},
        {"where": "half_pixel", "rounding": "floor"},
        {"rounding": "ceil"},
        {"pads": (0, 0, 0, 0)},
        {"pads": (1, 1, 0, 0)},
        {"kernel": 5},
        {"strides": [2, 2]},
        {"group": 3},
        {"dilations": [2, 2]},
    ],
    ids=str,
)
def test_other_enlargements_are_left_alone(make, change):
    b = make.Builder(5)
    resize = {key: change[key] for key in ("factor", "where", "rounding") if key in change}
    conv = {key: value for key, value in change.items() if key not in resize}
    model = b.model(b.conv(b.enlarge("x", **resize), 3, 6, **conv))
    make.assert_same(model, replace(NOTHING, sub_pixel="shuffle"), (1, 3, 5, 4), times={})


def test_enlargement_with_other_users_stays_for_them(make):
    b = make.Builder(6)
    large = b.enlarge("x")
    model = b.model(b.add("Add", b.conv(large, 3, 3), large), large)
    new = make.assert_same(model, replace(NOTHING, sub_pixel="shuffle"), (1, 3, 3, 4), times={"sub_pixel": 1})
    assert operators(new)["Resize"] == 1


@quick
@given(
    seed=seeds,
    h=sides,
    w=sides,
    r=st.sampled_from([2, 3, 4]),
    channels=st.sampled_from([1, 3]),
    mode=st.sampled_from(["CRD", "DCR"]),
    swap=st.booleans(),
)
def test_nearest_skip_is_added_before_the_shuffle(make, seed, h, w, r, channels, mode, swap):
    b = make.Builder(seed, channels=channels)
    shuffled = b.add("DepthToSpace", b.conv("x", channels, channels * r * r), blocksize=r, mode=mode)
    skip = b.enlarge("x", r)
    model = b.model(b.add("Add", *((skip, shuffled) if swap else (shuffled, skip))))
    new = make.assert_same(
        model, replace(NOTHING, nearest_skip=True), (2, channels, h, w), times={"nearest_skip": 1}, tolerance=1e-6
    )
    assert operators(new)["Resize"] == 0


def test_skip_of_another_factor_or_width_is_left_alone(make):
    b = make.Builder(7)
    gray = b.conv("x", 3, 1)
    shuffled = b.add("DepthToSpace", b.conv("x", 3, 12), blocksize=2, mode="CRD")
    wide = b.add("Add", shuffled, b.enlarge(gray))
    make.assert_same(b.model(wide), replace(NOTHING, nearest_skip=True), (1, 3, 3, 3), times={})
    seen = b.add("Add", shuffled, b.enlarge("x"))
    make.assert_same(b.model(seen, shuffled), replace(NOTHING, nearest_skip=True), (1, 3, 3, 3), times={})


@quick
@given(seed=seeds, low=st.sampled_from([-0.5, 0.9, 1.0]), high=st.sampled_from([1.0, 1.1, 3.0]), kind=st.integers(0, 2))
def test_prelu_is_decomposed(make, seed, low, high, kind):
    b = make.Builder(seed)
    slopes = b.rng.uniform(low, high, [(4, 1, 1), (1, 4, 1, 1), (1,)][kind])
    model = b.model(b.add("PRelu", b.conv("x", 3, 4), b.constant(slopes)))
    new = make.assert_same(model, replace(NOTHING, prelu="decompose"), (1, 3, 4, 5), times={"prelu": 1}, tolerance=1e-6)
    assert operators(new)["PRelu"] == 0
    assert operators(new)["LeakyRelu"] == (kind == 2)


def test_prelu_by_rows_or_of_unknown_channels_is_left_alone(make):
    b = make.Builder(15)
    rows = b.add("PRelu", b.conv("x", 3, 4), b.random(5, 1))
    turned = b.add("PRelu", b.add("Transpose", "x", perm=[0, 1, 3, 2]), b.random(3, 1, 1))
    make.assert_same(b.model(rows, turned), replace(NOTHING, prelu="decompose"), (1, 3, 5, 4), times={})


@quick
@given(seed=seeds, h=sides, w=sides, leading=st.sampled_from([0, 2, 3]), bias=st.booleans())
def test_concatenations_are_split(make, seed, h, w, leading, bias):
    b = make.Builder(seed)
    seen = ["x"]
    for number in range(1, 5):
        joined = b.add("Concat", *seen, axis=1) if number > 1 else "x"
        seen.append(b.add("LeakyRelu", b.conv(joined, 3 + 2 * (number - 1), 2, bias=bias), alpha=0.2))
    model = b.model(b.conv(b.add("Concat", *seen, axis=1), 11, 3, bias=bias))
    times = 4 if leading == 0 else 3
    new = make.assert_same(model, replace(NOTHING, concat=leading), (2, 3, h, w), times={"concat": times})
    assert operators(new)["Concat"] == (leading > 0)


def test_concatenation_of_unknown_widths_or_along_rows_is_left_alone(make):
    b = make.Builder(8)
    odd = b.add("Transpose", "x", perm=[0, 1, 3, 2])
    unknown = b.conv(b.add("Concat", "x", odd, axis=1), 6, 3)
    rows = b.conv(b.add("Concat", "x", "x", axis=2), 3, 3)
    make.assert_same(b.model(unknown, rows), replace(NOTHING, concat=0), (1, 3, 4, 4), times={})


@quick
@given(seed=seeds, h=sides, w=sides, swap=st.booleans(), joined=st.booleans())
def test_residuals_become_taps(make, seed, h, w, swap, joined):
    b = make.Builder(seed)
    x = b.conv("x", 3, 4)
    source = b.add("Concat", b.add("Relu", x), x, axis=1) if joined else x
    conv = b.conv(source, 8 if joined else 4, 4)
    total = b.add("Add", *((x, conv) if swap else (conv, x)))
    model = b.model(b.add("Add", b.add("Mul", total, b.constant(0.2)), x))
    new = make.assert_same(model, replace(NOTHING, residual_taps=True), (1, 3, h, w), times={"residual_taps": 2})
    assert (operators(new)["Add"], operators(new)["Mul"]) == (1, 0)


@quick
@given(seed=seeds, h=sides, w=sides, kernel=st.sampled_from([3, 5]), bias=st.booleans(), by=st.booleans())
def test_narrow_outputs_are_packed(make, seed, h, w, kernel, bias, by):
    b = make.Builder(seed)
    large = b.enlarge("x") if by else b.add("DepthToSpace", b.conv("x", 3, 12), blocksize=2)
    features = b.add("LeakyRelu", b.conv(large, 3, 6))
    model = b.model(b.conv(b.add("Add", features, b.constant(0.5)), 6, 3, kernel, bias=bias))
    make.assert_same(model, replace(NOTHING, narrow_output=True), (2, 3, h, w), times={"narrow_output": 1})


def test_narrow_output_of_odd_sides_is_left_alone(make):
    b = make.Builder(9)
    first = b.conv("x", 3, 3)
    thrice = b.conv(b.enlarge("x", 3), 3, 3)
    shrunk = b.conv(b.conv(b.enlarge("x", 2), 3, 8, pads=(0, 0, 0, 0)), 8, 3)
    model = b.model(first, thrice, shrunk)
    make.assert_same(model, replace(NOTHING, narrow_output=True), (1, 3, 5, 7), times={})


@quick
@given(
    seed=seeds,
    h=sides,
    w=sides,
    act=st.sampled_from(["", "Relu", "PRelu", "LeakyRelu"]),
    features=st.integers(1, 9),
    multiple=st.sampled_from([4, 8]),
)
def test_channels_are_padded(make, seed, h, w, act, features, multiple):
    b = make.Builder(seed)
    y = b.conv("x", 3, features)
    if act:
        y = b.add(act, y, *([b.random(features, 1, 1)] if act == "PRelu" else []))
    model = b.model(b.conv(y, features, 3))
    times = {"channels": 1} if features % multiple else {}
    new = make.assert_same(model, replace(NOTHING, channels=multiple), (1, 3, h, w), times=times)
    weights = {tensor.name: tensor.dims for tensor in new.graph.initializer if len(tensor.dims) == 4}
    assert all(dims[0] % multiple == 0 or dims[0] == 3 for dims in weights.values())


@pytest.mark.parametrize("case", ["sigmoid", "two users", "grouped", "output"])
def test_channels_that_others_see_are_not_padded(make, case):
    b = make.Builder(10)
    y = b.conv("x", 3, 6)
    outputs = [y] if case == "output" else [b.add("Relu", y)] if case == "two users" else []
    y = b.add("Sigmoid", y) if case == "sigmoid" else y
    model = b.model(b.conv(y, 6, 3, group=3 if case == "grouped" else 1), *outputs)
    make.assert_same(model, replace(NOTHING, channels=4), (1, 3, 4, 4), times={})


@quick
@given(
    seed=seeds,
    h=st.integers(1, 3),
    w=st.integers(1, 3),
    r=st.sampled_from([2, 3]),
    kernel=st.sampled_from([1, 3]),
    form=st.sampled_from(["node", "constants", "arithmetic", "exporter", "older exporter"]),
)
def test_unshuffle_joins_the_convolution(make, seed, h, w, r, kernel, form):
    b = make.Builder(seed)
    if form == "node":
        small = b.add("SpaceToDepth", "x", blocksize=r)
    elif form == "exporter":
        small = add_flattened(b, "x", r)
    elif form == "older exporter":
        small = add_single_cuts(b, "x", r)
    else:
        small = add_reshapes(b, "x", r, None if form == "arithmetic" else (2, 3, h * r, w * r))
    model = b.model(b.conv(small, 3 * r * r, 5, kernel))
    if form == "constants":
        for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim, (2, 3, h * r, w * r), strict=True):
            dim.dim_value = side
    new = make.assert_same(
        model, replace(NOTHING, unshuffle=True), (2, 3, h * r, w * r), times={"unshuffle": 1}, tolerance=1e-6
    )
    assert [node.op_type for node in new.graph.node] == ["Conv"]


def add_reshapes(b, x, r, shape):
    """A pixel-unshuffle as exporters write it; `shape` None: computed from the picture."""
    whole = np.int64
    if shape:
        n, c, h, w = shape
        cut = b.constant([n, c, h // r, r, w // r, r], whole)
        join = b.constant([n, c * r * r, h // r, w // r], whole)
    else:
        sizes = b.add("Shape", x)
        n, c, h, w = (b.add("Gather", sizes, b.constant([place], whole)) for place in range(4))
        block = b.constant([r], whole)
        h, w = b.add("Div", h, block), b.add("Div", w, block)
        cut = b.add("Concat", n, c, h, block, w, block, axis=0)
        join = b.add("Concat", n, b.add("Mul", c, b.constant([r * r], whole)), h, w, axis=0)
    turned = b.add("Transpose", b.add("Reshape", x, cut), perm=[0, 1, 3, 5, 2, 4])
    return b.add("Reshape", turned, join)


def add_flattened(b, x, r):
    """As PyTorch's exporter of 2.13 writes it: what comes before the channels is flattened, and restored at the end."""
    batch = b.constant([-1], np.int64)
    flat = b.add("Reshape", x, b.add("Concat", batch, b.add("Shape", x, start=-3), axis=0))
    c, h, w = (b.add("Shape", flat, start=place, end=place + 1) for place in (1, 2, 3))
    block = b.constant([r], np.int64)
    h, w = b.add("Div", h, block), b.add("Div", w, block)
    cut = b.add("Reshape", flat, b.add("Concat", batch, c, h, block, w, block, axis=0))
    turned = b.add("Transpose", cut, perm=[0, 1, 3, 5, 2, 4])
    more = b.add("Mul", c, b.constant([r * r], np.int64))
    joined = b.add("Reshape", turned, b.add("Concat", batch, more, h, w, axis=0))
    restored = b.add("Concat", b.add("Shape", x, end=-3), b.add("Shape", joined, start=1), axis=0)
    return b.add("Reshape", joined, restored)


def add_single_cuts(b, x, r):
    """As PyTorch's exporter of TorchScript writes it: one side is cut at a time."""
    whole = np.int64
    cut = b.add("Unsqueeze", x, b.constant([3], whole))
    cut = b.add("Reshape", cut, b.constant([0, 0, -1, r, 0], whole))
    cut = b.add("Reshape", cut, b.constant([0, 0, 0, 0, -1, r], whole))
    turned = b.add("Transpose", cut, perm=[0, 1, 3, 5, 2, 4])
    joined = b.add("Reshape", turned, b.constant([0, -1, 1, 1, 0, 0], whole))
    return b.add("Squeeze", joined, b.constant([2, 3], whole))


def test_other_reshapes_are_no_unshuffle(make):
    b = make.Builder(11)
    whole = np.int64
    turned = b.add("Reshape", "x", b.constant([1, 3, 2, 4, 4, 2], whole))
    turned = b.add("Transpose", turned, perm=[0, 1, 3, 5, 2, 4])
    model = b.model(b.conv(b.add("Reshape", turned, b.constant([1, 24, 2, 4], whole)), 24, 3))
    for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 8, 8), strict=True):
        dim.dim_value = side
    make.assert_same(model, replace(NOTHING, unshuffle=True), (1, 3, 8, 8), times={})


@quick
@given(
    seed=seeds, h=sides, w=sides, r=st.sampled_from([2, 4]), mode=st.sampled_from(["CRD", "DCR"]), skip=st.booleans()
)
def test_halved_output_joins_the_tail(make, seed, h, w, r, mode, skip):
    b = make.Builder(seed)
    y = b.add("DepthToSpace", b.conv("x", 3, 3 * r * r), blocksize=r, mode=mode)
    model = b.model(b.add("Add", y, b.enlarge("x", r)) if skip else y)
    whole = make.run_model(model, lr := np.random.default_rng(1).random((2, 3, h, w), dtype=np.float32))[0]
    append_halving(model)
    expected = whole.reshape(2, 3, h * r // 2, 2, w * r // 2, 2).mean(axis=(3, 5))
    options = replace(NOTHING, nearest_skip=True, average_pool=True)
    new = make.assert_same(model, options, (2, 3, h, w))
    assert operators(new)["AveragePool"] == 0
    assert np.abs(make.run_model(new, lr)[0] - expected).max() < 1e-5


@quick
@given(seed=seeds, h=st.integers(2, 7), w=st.integers(2, 7), bias=st.booleans(), kernel=st.sampled_from([1, 3]))
def test_average_pool_joins_a_convolution(make, seed, h, w, bias, kernel):
    b = make.Builder(seed)
    model = b.model(b.add("AveragePool", b.conv("x", 3, 4, kernel, bias=bias), kernel_shape=[2, 2], strides=[2, 2]))
    make.assert_same(model, replace(NOTHING, average_pool=True), (1, 3, h, w), times={"average_pool": 1})


@pytest.mark.parametrize("change", [{"strides": [1, 1]}, {"pads": [1, 1, 1, 1]}, {"ceil_mode": 1}], ids=str)
def test_other_pools_are_left_alone(make, change):
    b = make.Builder(12)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]} | change
    model = b.model(b.add("AveragePool", b.conv("x", 3, 4), **pool))
    make.assert_same(model, replace(NOTHING, average_pool=True), (1, 3, 5, 5), times={})


def test_what_a_subgraph_reads_is_not_taken_away(make):
    b = make.Builder(13)
    conv = b.conv("x", 3, 3)
    inner = helper.make_graph(
        [helper.make_node("Relu", [conv], ["inner"])],
        "then",
        [],
        [helper.make_tensor_value_info("inner", 1, [None] * 4)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["other"])], "else", [], [helper.make_tensor_value_info("other", 1, [None] * 4)]
    )
    chosen = b.add("If", b.constant(True, np.bool_), then_branch=inner, else_branch=other)
    model = b.model(b.add("Add", b.add("Mul", conv, b.constant(0.2)), chosen))
    make.assert_same(model, replace(NOTHING, scales=True), (1, 3, 4, 4), times={})


def test_half_precision_is_left_alone(make):
    b = make.Builder(14)
    half = b.add("Cast", "x", to=onnx.TensorProto.FLOAT16)
    conv = b.add("Conv", half, b.constant(b.rng.random((4, 3, 1, 1)), np.float16))
    scaled = b.add("Mul", conv, b.constant(0.2, np.float16))
    model = b.model(b.add("Cast", scaled, to=onnx.TensorProto.FLOAT))
    assert rewrite_model(model).applied == ()
