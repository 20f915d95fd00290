import onnx
import pytest
from onnx import helper

from sr_deploy.graph.wire import MAX_FIELDS, check_wire


def varint(number):
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes((*coded, number))


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def small_model():
    node = helper.make_node("Relu", ["x"], ["y"], name="first")
    values = [helper.make_tensor_value_info(name, 1, [1, 3, "h", "w"]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "graph", values[:1], values[1:]))


def test_a_sound_file_and_every_beginning_of_it_pass():
    content = small_model().SerializeToString()
    for end in range(len(content) + 1):
        check_wire(content[:end])


def test_text_that_is_not_utf8_is_refused():
    content = small_model().SerializeToString().replace(b"first", b"fi\xffst")
    assert b"\xff" in content
    with pytest.raises(ValueError, match=r"its text 'fi\\xffst' is not UTF-8"):
        check_wire(content)


def test_what_tensors_hold_is_no_text():
    model = small_model()
    model.graph.initializer.append(helper.make_tensor("w", 2, [3], b"\xff\xfe\xfd", raw=True))
    check_wire(model.SerializeToString())


def test_millions_of_empty_messages_are_refused():
    many = field(7, field(1, b"") * (MAX_FIELDS + 1))  # of a graph: nodes, two bytes each
    with pytest.raises(ValueError, match="more than 1000000 fields"):
        check_wire(many)
    check_wire(field(7, field(1, b"") * 1000))


def test_millions_of_small_numbers_are_refused():
    tensor = field(7, b"\0" * (2**26 + 1))  # int64_data: eight bytes each in memory
    with pytest.raises(ValueError, match="64 MiB of integers"):
        check_wire(field(7, field(5, tensor) + field(5, b"")))


def test_nesting_beyond_what_is_parsed_ends():
    content = b""
    for _ in range(3000):  # a graph in an attribute of a node
        content = field(1, field(5, field(6, content)))
    check_wire(field(7, content))
    with pytest.raises(Exception, match=r"[Ee]rror parsing|[Rr]ecursion"):
        onnx.ModelProto.FromString(field(7, content))
