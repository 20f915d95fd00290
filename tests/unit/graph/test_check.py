"""Files that are not what they say: each is refused when it is loaded, in one line that says why."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import GraphError, UnsafePathError
from sr_deploy.graph.load import load_model


def sound_model():
    """Two nodes, a weight and a stored shape, in opset 17."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "s"], ["y"], name="resize", mode="nearest"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.zeros((3, 3, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def load(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializePartialToString())
    return load_model(path)


def refusal(folder, model, kind=GraphError):
    with pytest.raises(kind) as caught:
        load(folder, model)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def weight(model):
    return model.graph.initializer[0]


def node(model, place=0):
    return model.graph.node[place]


def set_attribute(one, name, value):
    del [entry for entry in one.attribute if entry.name == name][:]
    one.attribute.append(helper.make_attribute(name, value))


# What is changed, and what the message says.
CHANGES = {
    "fewer bytes": (
        lambda m: setattr(weight(m), "raw_data", b"123"),
        "'w' of 3 x 3 x 3 x 3 holds 3 bytes; 324 are due",
    ),
    "another side": (lambda m: weight(m).dims.append(2), "holds 324 bytes; 648 are due"),
    "huge sides": (lambda m: weight(m).dims.extend([2**62, 2**62]), "holds 324 bytes"),
    "negative side": (lambda m: weight(m).dims.append(-1), "has the sides 3 x 3 x 3 x 3 x -1"),
    "unknown type": (lambda m: setattr(weight(m), "data_type", 255), "element type 255"),
    "text": (lambda m: setattr(weight(m), "data_type", TensorProto.STRING), "element type 8"),
    "two forms": (lambda m: weight(m).float_data.append(1.0), "has its data in raw_data and float_data"),
    "a segment": (lambda m: weight(m).segment.SetInParent(), "is a segment"),
    "no name": (lambda m: weight(m).ClearField("name"), "a tensor of it has no name"),
    "twice": (lambda m: m.graph.initializer.append(weight(m)), "'w' is given twice"),
    "made twice": (lambda m: node(m, 1).output.append("c"), "'c' is given twice"),
    "nothing makes it": (lambda m: node(m, 1).input.__setitem__(0, "z"), "'resize' (Resize) reads 'z', which nothing"),
    "circle": (lambda m: node(m).input.__setitem__(0, "y"), "go round in a circle"),
    "no output": (lambda m: setattr(m.graph.output[0], "name", "z"), "nothing makes its output 'z'"),
    "no operator": (lambda m: setattr(node(m), "op_type", "Convolve"), "is not an operator of opset 17"),
    "no import": (lambda m: setattr(node(m), "domain", "own"), "of the domain 'own', which is not imported"),
    "too few inputs": (lambda m: node(m).input.pop(), "has 1 inputs, and lacks [1]"),
    "too many inputs": (lambda m: node(m).input.extend("sss"), "has 5 inputs, and takes 3"),
    "too many outputs": (lambda m: node(m).output.append("d"), "has 2 outputs; 1 to 1 are due"),
    "no attribute": (
        lambda m: node(m).CopyFrom(helper.make_node("Concat", ["x"], ["c"])),
        "has no attribute 'axis', which it needs",
    ),
    "another type": (lambda m: setattr(node(m).attribute[0], "type", 1), "'pads' of another type"),
    "an attribute too many": (
        lambda m: node(m).attribute.append(helper.make_attribute("alpha", 1)),
        "'alpha', which its operator does not know",
    ),
    "stride of zero": (lambda m: node(m).attribute.append(helper.make_attribute("strides", [0, 1])), "holds 0; 1 to"),
    "huge dilation": (lambda m: node(m).attribute.append(helper.make_attribute("dilations", [2**40, 1])), "holds 1099"),
    "mode that is no text": (lambda m: setattr(node(m, 1).attribute[0], "s", b"\xff"), "'mode' is not UTF-8"),
    "function's": (lambda m: setattr(node(m).attribute[0], "ref_attr_name", "a"), "refers to that of a function"),
    "no opset": (lambda m: m.ClearField("opset_import"), "states opset none of ONNX"),
    "opset 200": (lambda m: setattr(m.opset_import[0], "version", 200), "states opset 200 of ONNX"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "it has no nodes"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse tensors"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_files_that_are_not_what_they_say(tmp_path, what):
    model = sound_model()
    change, said = CHANGES[what]
    change(model)
    assert said in refusal(tmp_path, model)


def test_the_sound_file_is_taken(tmp_path):
    assert [one.op_type for one in load(tmp_path, sound_model()).graph.node] == ["Conv", "Resize"]


def test_numbers_that_a_type_has_not(tmp_path):
    model = sound_model()
    model.graph.initializer.append(TensorProto(name="q", data_type=TensorProto.INT8, dims=[2], int32_data=[1, 300]))
    assert "'q' holds numbers that its element type 3 has not" in refusal(tmp_path, model)


def test_a_long_name_is_cut(tmp_path):
    model = sound_model()
    node(model, 1).input[0] = "n" * 5_000_000
    assert "characters left out" in refusal(tmp_path, model)


def test_nodes_in_another_order_are_sorted(tmp_path):
    model = sound_model()
    nodes = [onnx.NodeProto.FromString(one.SerializeToString()) for one in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [one.name for one in load(tmp_path, model).graph.node] == ["conv", "resize"]


def function(name, called, domain="own"):
    nodes = [
        helper.make_node(one, ["a" if not place else "b0"], [f"b{place}"], domain=domain if one[0] == "F" else "")
        for place, one in enumerate(called)
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], [f"b{len(called) - 1}"], nodes, imports)


def with_functions(*functions):
    model = sound_model()
    node(model).CopyFrom(helper.make_node("F0", ["x"], ["c"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.extend(functions)
    return model


def test_functions_are_written_out(tmp_path):
    loaded = load(tmp_path, with_functions(function("F0", ["F1", "Abs"]), function("F1", ["Neg"])))
    assert [one.op_type for one in loaded.graph.node] == ["Neg", "Abs", "Resize"]
    assert not loaded.functions


def test_functions_that_would_fill_the_memory(tmp_path):
    doubling = [function(f"F{level}", [f"F{level + 1}"] * 2) for level in range(60)]
    said = refusal(tmp_path, with_functions(*doubling, function("F60", ["Abs"])))
    assert "nodes, functions written out; 15000 are allowed" in said
    assert "calls itself" in refusal(tmp_path, with_functions(function("F0", ["F1"]), function("F1", ["F0"])))


def branch(read):
    return helper.make_graph(
        [helper.make_node("Identity", [read], ["b"])], "branch", [], [helper.make_empty_tensor_value_info("b")]
    )


@pytest.mark.parametrize(("read", "taken"), [("c", True), ("z", False), ("y", False)])
def test_what_branches_read(tmp_path, read, taken):
    model = sound_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    chosen = helper.make_node("If", ["go"], ["d"], name="if", then_branch=branch(read), else_branch=branch("c"))
    model.graph.node.insert(1, chosen)
    node(model, 2).input[0] = "d"
    if taken:
        assert [one.op_type for one in load(tmp_path, model).graph.node] == ["Conv", "If", "Resize"]
    else:
        assert ("go round in a circle" if read == "y" else "reads 'z', which nothing makes") in refusal(tmp_path, model)


@pytest.mark.parametrize(("depth", "taken"), [(4, True), (5, False)])
def test_branches_in_branches(tmp_path, depth, taken):
    model = sound_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    inner = branch("c")
    for _ in range(depth - 1):
        chosen = helper.make_node("If", ["go"], ["b"], then_branch=inner, else_branch=branch("c"))
        inner = helper.make_graph([chosen], "branch", [], [helper.make_empty_tensor_value_info("b")])
    model.graph.node.insert(1, helper.make_node("If", ["go"], ["d"], then_branch=inner, else_branch=branch("c")))
    if taken:
        assert len(load(tmp_path, model).graph.node) == 3
    else:
        assert "branches nested deeper than 4 times" in refusal(tmp_path, model)


def test_hundreds_of_branches(tmp_path):
    model = sound_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    for place in range(257):
        chosen = helper.make_node("If", ["go"], [f"d{place}"], then_branch=branch("c"), else_branch=branch("c"))
        model.graph.node.insert(1 + place, chosen)
    assert "514 branches and bodies; 512 are allowed" in refusal(tmp_path, model)
    del model.graph.node[1]
    assert load(tmp_path, model)


def outside(model, **entries):
    tensor = weight(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return model


def test_weights_in_another_file(tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(400))
    assert load(tmp_path, outside(sound_model(), location="weights.bin", offset="76", length="324"))
    for entries, said in (
        ({"location": "weights.bin", "offset": "77"}, "take 401 bytes of weights.bin, which has 400"),
        ({"location": "weights.bin", "length": "400"}, "takes 324 bytes, not 400 from 0 on"),
        ({"location": "weights.bin", "offset": "-5"}, "does not say where"),
        ({"location": "weights.bin", "offset": "9" * 5000}, "not 324 from 999"),
        ({"location": "weights.bin", "length": "a"}, "does not say where"),
        ({"offset": "0"}, "does not say where"),
    ):
        assert said in refusal(tmp_path, outside(sound_model(), **entries))
    for place in ("../weights.bin", "/etc/passwd", "a/../../b"):
        refusal(tmp_path, outside(sound_model(), location=place), UnsafePathError)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04", b"version https://", b"\xff" * 1000])
def test_what_is_no_onnx_file(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match="is not an ONNX file, or a damaged one"):
        load_model(path)
