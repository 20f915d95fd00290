import numpy as np
import pytest
import torch

from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bench.variants import open_candidate, write_fixed_graph
from sr_deploy.bundle import Shape
from sr_deploy.errors import ShapeError
from sr_deploy.graph.read import read_graph
from sr_deploy.model import open_model
from sr_deploy.runners.inputs import photograph_batch


@pytest.mark.parametrize("name", ["onnxruntime:fp16+fixed", "openvino:fp32+fixed"])
def test_a_fixed_graph_gives_the_same_and_takes_one_shape(bundle, tmp_path, name):
    model, choice, shape = open_model(bundle.path), parse_candidate(name), Shape(2, 24, 16)
    path = write_fixed_graph(model, choice, shape, tmp_path)
    assert read_graph(path).fixed_shape == (2, 24, 16)
    lr = photograph_batch(shape, 3, 4)
    with (
        open_candidate(open_model(path), choice, 1) as fixed,
        open_candidate(model, parse_candidate(name.removesuffix("+fixed")), 1) as dynamic,
    ):
        assert np.abs(fixed.infer(lr) - dynamic.infer(lr)).max() < 2e-3
        with pytest.raises(ShapeError, match="2x24x16"):
            fixed.infer(lr[:1])


def test_pytorch_as_people_write_it_keeps_its_default_layout(bundle):
    model, lr = open_model(bundle.path), photograph_batch(Shape(1, 24, 16), 3, 4)
    outputs = {}
    for name, layout in (("torch:fp32+nchw", torch.contiguous_format), ("torch:fp32", torch.channels_last)):
        with open_candidate(model, parse_candidate(name), 1) as runner:
            weights = [one for one in runner._network.parameters() if one.ndim == 4 and one.shape[1] > 3]
            assert weights
            assert all(one.is_contiguous(memory_format=layout) for one in weights)
            outputs[name] = runner.infer(lr)
    assert np.abs(outputs["torch:fp32+nchw"] - outputs["torch:fp32"]).max() < 1e-5
