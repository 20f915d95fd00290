"""What changes of graphs have in common: nodes, names and constants of a graph of three nodes."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.change import rename_tensors, set_nodes, sort_constants, take_name


@pytest.fixture
def graph():
    nodes = [
        helper.make_node("Add", ["x", "b"], ["s"], name="add"),
        helper.make_node("Clip", ["s", "", "a"], ["c"], name="clip"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    constants = [numpy_helper.from_array(np.full(2, number, np.float32), name) for number, name in enumerate("cba")]
    return helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants)


def test_nodes_of_the_graph_itself_can_be_put_in_another_order_with_new_ones(graph):
    add, clip, relu = graph.node
    whole = clip.SerializeToString()
    set_nodes(graph, iter([relu, helper.make_node("Abs", ["x"], ["z"], name="abs"), clip]))
    assert [node.name for node in graph.node] == ["relu", "abs", "clip"]
    assert graph.node[2].SerializeToString() == whole
    assert list(add.input) == ["x", "b"]


def test_a_tensor_gets_its_new_name_where_it_is_made_and_where_it_is_read(graph):
    rename_tensors(graph.node, {"s": "sum", "x": "lr"})
    assert [(list(node.input), list(node.output)) for node in graph.node] == [
        (["lr", "b"], ["sum"]),
        (["sum", "", "a"], ["c"]),
        (["c"], ["y"]),
    ]


def test_constants_are_sorted_and_those_that_no_node_reads_go(graph):
    graph.node[2].input[0] = "s"
    sort_constants(graph)
    assert {one.name: numpy_helper.to_array(one).tolist() for one in graph.initializer} == {"a": [2, 2], "b": [1, 1]}
    assert [one.name for one in graph.initializer] == ["a", "b"]


def test_a_name_is_given_once():
    taken = {"x", "x_"}
    assert [take_name("x", taken), take_name("x", taken), take_name("y", taken)] == ["x__", "x___", "y"]
