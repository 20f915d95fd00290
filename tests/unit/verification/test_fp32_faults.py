"""Faults of FP32 graphs, the hash of each entered: found in the file, and those that show by running it too."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sr_deploy.bundle import open_bundle

FILE = "model.fp32.onnx"
CHECK = f"{FILE} (weights)"
NETWORKS = ("compact", pytest.param("rrdb", marks=pytest.mark.slow))
BEYOND = {"height": (2, 256), "width": (3, 512), "batch": (0, 3), "height, rrdb-lite": (2, 64)}


def wrong_beyond(axis: int, most: int):
    """Adds 0.1 to everything once the input is larger than `most` along an axis."""

    def change(model, surgery):
        surgery.add_constant(model, "x.axis", np.array(axis, np.int64))
        surgery.add_constant(model, "x.most", np.array(most, np.int64))
        surgery.add_constant(model, "x.wrong", np.array(0.1, np.float32))
        nodes = [
            helper.make_node("Shape", ["lr"], ["x.shape"], "x.Shape"),
            helper.make_node("Gather", ["x.shape", "x.axis"], ["x.side"], "x.Gather"),
            helper.make_node("Greater", ["x.side", "x.most"], ["x.large"], "x.Greater"),
            helper.make_node("Cast", ["x.large"], ["x.factor"], "x.Cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x.factor", "x.wrong"], ["x.added"], "x.Mul"),
            helper.make_node("Add", ["sound", "x.added"], ["x.sr"], "x.Add"),
        ]
        surgery.spoil_output(model, nodes, "x.sr")

    return change


def none_on_black(model, surgery):
    """Multiplies by max / max, which is NaN where all is black."""
    nodes = [
        helper.make_node("ReduceMax", ["lr"], ["x.max"], "x.ReduceMax", keepdims=1),
        helper.make_node("Div", ["x.max", "x.max"], ["x.one"], "x.Div"),
        helper.make_node("Mul", ["sound", "x.one"], ["x.sr"], "x.Mul"),
    ]
    surgery.spoil_output(model, nodes, "x.sr")


def wrong_on(color: tuple[int, int, int]):
    """Adds 0.1 where every pixel has this color: 1 - sign of the greatest difference from it."""

    def change(model, surgery):
        surgery.add_constant(model, "x.color", np.array(color, np.float32).reshape(1, 3, 1, 1))
        surgery.add_constant(model, "x.one", np.array(1, np.float32))
        surgery.add_constant(model, "x.wrong", np.array(0.1, np.float32))
        nodes = [
            helper.make_node("Sub", ["lr", "x.color"], ["x.apart"], "x.Sub"),
            helper.make_node("Abs", ["x.apart"], ["x.size"], "x.Abs"),
            helper.make_node("ReduceMax", ["x.size"], ["x.most"], "x.ReduceMax", keepdims=1),
            helper.make_node("Sign", ["x.most"], ["x.sign"], "x.Sign"),
            helper.make_node("Sub", ["x.one", "x.sign"], ["x.is"], "x.Sub2"),
            helper.make_node("Mul", ["x.is", "x.wrong"], ["x.added"], "x.Mul"),
            helper.make_node("Add", ["sound", "x.added"], ["x.sr"], "x.Add"),
        ]
        surgery.spoil_output(model, nodes, "x.sr")

    return change


SHOWN = {f"wrong beyond {name}": wrong_beyond(*what) for name, what in BEYOND.items()}
SHOWN |= {"NaN on black": none_on_black, "wrong on white": wrong_on((1, 1, 1)), "wrong on red": wrong_on((1, 0, 0))}
SHOWN |= {"wrong on green": wrong_on((0, 1, 0)), "wrong on blue": wrong_on((0, 0, 1))}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fault", SHOWN)
def test_what_is_wrong_on_some_inputs_only_is_found_in_the_file_and_by_running_it(
    forge, surgery, capsys, network, fault
):
    bundle = forge(network, fp16=True)
    bundle.change_graph(FILE, lambda model: SHOWN[fault](model, surgery))
    code, found = bundle.verify(capsys, "onnxruntime:fp32")
    assert code == 3
    assert any(re.search(r"it has \d+ node\(s\) too many, first \w+ 'x\.", line) for line in found[CHECK])
    (entry,) = open_bundle(bundle.path).certificate().entries
    assert not entry.passed


def rewritten_weight(model, surgery):
    """A weight that rewriting made: of the sum before the shuffle, or one that a factor was folded into."""
    names = {tensor.name for tensor in model.graph.initializer}
    name = next((one for one in sorted(names) if one.endswith("spread.weight")), None)
    name = name or surgery.find(model, "Conv", 5).input[1]

    def nudge(weights):
        place = np.unravel_index(int(np.argmax(np.abs(weights))), weights.shape)
        weights[place] *= np.float32(1.01)
        return weights

    surgery.change_tensor(model, name, nudge)


def rounded_on_the_way(model, surgery):
    casts = [("Cast", {"to": kind}) for kind in (TensorProto.FLOAT16, TensorProto.FLOAT)]
    surgery.insert_behind(model, surgery.find(model, "Conv", 1), *casts)


def quantized_on_the_way(model, surgery):
    node = surgery.find(model, "Conv", 1)
    scale = surgery.add_constant(model, "x.scale", np.array(0.01, np.float32))
    zero = surgery.add_constant(model, "x.zero", np.array(0, np.int8))
    surgery.insert_behind(model, node, ("QuantizeLinear", {}), ("DequantizeLinear", {}))
    for one in model.graph.node:
        if one.op_type in ("QuantizeLinear", "DequantizeLinear"):
            one.input.extend([scale, zero])


def operator_of_its_own(model, surgery):
    """An Identity that is none: a function of that name, in a domain of its own, that adds 0.001."""
    node = surgery.find(model, "Conv", 1)
    surgery.insert_behind(model, node, ("Identity", {"domain": "mine"}))
    one = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.FLOAT, [], [0.001]))
    body = [one, helper.make_node("Add", ["a", "c"], ["b"])]
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("mine", "Identity", ["a"], ["b"], body, opset))
    model.opset_import.append(helper.make_opsetid("mine", 1))


HIDDEN = {
    "one rewritten weight by 1 %": (rewritten_weight, "1 of .* values differ beyond rounding, most at"),
    "FP16 on the way": (rounded_on_the_way, "comes through Cast .* in FLOAT16, which does not hold FLOAT"),
    "INT8 on the way": (quantized_on_the_way, "comes through QuantizeLinear .*, and is to be read as it is"),
    "an operator of its own": (
        operator_of_its_own,
        "node 2 is Add .* where LeakyRelu .* is due|node 3 is Add .* where PRelu .* is due",
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fault", HIDDEN)
def test_what_running_hardly_shows_is_found_in_the_file(forge, surgery, capsys, network, fault):
    bundle = forge(network, fp16=True)
    change, message = HIDDEN[fault]
    bundle.change_graph(FILE, lambda model: change(model, surgery))
    code, found = bundle.verify(capsys, "openvino:fp32")
    assert code == 3
    assert any(re.search(message, line) for line in found[CHECK]), found[CHECK]
    if fault == "one rewritten weight by 1 %":
        assert bundle.verify(capsys, "openvino:fp32") == (code, found)  # and the second time


@pytest.mark.parametrize("network", NETWORKS)
def test_what_rewriting_made_on_another_machine_may_differ_in_its_last_place(forge, surgery, capsys, network):
    bundle = forge(network)

    def turn_last_places(model: onnx.ModelProto) -> None:
        name = surgery.find(model, "Conv", 2).input[1]
        surgery.change_tensor(model, name, lambda weights: np.nextafter(weights, np.float32(np.inf)))

    bundle.change_graph(FILE, turn_last_places)
    assert bundle.verify(capsys, "onnxruntime:fp32") == (0, {})
