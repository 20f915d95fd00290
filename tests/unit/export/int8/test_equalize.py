from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sr_deploy.export.int8.equalize import apply_factors, choose_factors, find_factors
from sr_deploy.export.int8.execute import open_graph
from sr_deploy.export.int8.placement import place_quantization

pytestmark = pytest.mark.xdist_group("int8")  # one process calibrates for all


def inputs():
    return iter([np.random.default_rng(2).random((1, 3, 24, 24), dtype=np.float32)])


def test_the_function_stays_and_channels_come_together(trained):
    model = onnx.load(trained[1])
    placement = place_quantization(model)
    factors = find_factors(model, placement, inputs, "onnxruntime")
    assert set(factors) == {candidate.data for candidate in placement.candidates}
    equal = apply_factors(model, factors)
    lr = np.random.default_rng(3).random((1, 3, 31, 17), dtype=np.float32)
    one, other = (open_graph(each, "onnxruntime")(lr)["sr"] for each in (model, equal))
    assert np.abs(one - other).max() < 1e-5
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    changed = [
        tensor.name
        for tensor in equal.graph.initializer
        if not np.array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
    ]
    assert len(changed) >= 2 * len(factors)


def test_networks_whose_features_are_read_twice_are_left_alone(exported):
    model = onnx.load(exported("rrdbnet-x4").path)
    found = find_factors(model, place_quantization(model), inputs, "onnxruntime")
    readers = {name: [node.op_type for node in model.graph.node if name in node.input] for name in found}
    assert len(readers) == 2  # of the tail
    assert all(reading == ["Conv"] for reading in readers.values())


def test_factors_even_out_what_they_can():
    greatest = np.array([1.0, 100.0, 10.0, 0.0], np.float32)
    weight = np.ones((5, 4, 3, 3), np.float32)
    factors = np.array(choose_factors(greatest, weight))
    assert factors[3] == 1  # a channel that is always 0 needs none
    assert np.isclose(np.prod(factors[:3]), 1, rtol=1e-5)
    spread = greatest[:3] / factors[:3]
    assert spread.max() / spread.min() < 100**0.41
