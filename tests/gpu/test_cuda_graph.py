"""CUDA graphs of PyTorch's runner. Not executed while it was written: no machine with a GPU was at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.torch.runner import TorchRunner
from sr_deploy.model import open_model
from sr_deploy.runners.cuda_graph import GraphReplay

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.fixture(scope="module")
def model(path):
    return open_model(path)


def pictures(count, *shape):
    return [torch.from_numpy(np.random.default_rng(seed).random(shape, np.float32)).cuda() for seed in range(count)]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_replay_is_the_eager_result(model, precision):
    choice = BackendChoice("torch", precision)
    with (
        TorchRunner(model, choice, "cuda:0", None) as graphs,
        TorchRunner(model, choice, "cuda:0", None, cuda_graphs=False) as eager,
    ):
        assert isinstance(graphs._network, GraphReplay)
        assert not isinstance(eager._network, GraphReplay)
        for lr in pictures(4, 2, 3, 40, 56):
            torch.testing.assert_close(graphs.infer_on_device(lr), eager.infer_on_device(lr), rtol=0, atol=1e-5)
        assert graphs._network.captured == 1


def test_another_shape_is_captured_anew_and_the_first_is_kept(model):
    with TorchRunner(model, BackendChoice("torch", "fp32"), "cuda:0", None) as runner:
        expected = {}
        for shape in ((1, 3, 32, 32), (2, 3, 32, 32), (1, 3, 32, 48)):
            (lr,) = pictures(1, *shape)
            first, *_ = [runner.infer_on_device(lr) for _ in range(3)]
            expected[shape] = first
        assert runner._network.captured == 3
        for shape, sr in expected.items():
            torch.testing.assert_close(runner.infer_on_device(pictures(1, *shape)[0]), sr, rtol=0, atol=1e-5)


def test_a_result_is_not_overwritten_by_the_next_replay(model):
    with TorchRunner(model, BackendChoice("torch", "fp32"), "cuda:0", None) as runner:
        inputs = pictures(5, 1, 3, 32, 32)
        results = [runner.infer_on_device(lr) for lr in inputs]
        copies = [sr.clone() for sr in results]
        torch.cuda.synchronize()
        again = [runner.infer_on_device(lr) for lr in inputs]
        torch.cuda.synchronize()
    assert runner._network is None
    for sr, copy, other in zip(results, copies, again, strict=True):
        assert torch.equal(sr, copy)
        torch.testing.assert_close(other, sr, rtol=0, atol=1e-5)


def test_streams_may_take_turns(model):
    with TorchRunner(model, BackendChoice("torch", "fp32"), "cuda:0", None) as runner:
        inputs = pictures(8, 1, 3, 128, 128)
        expected = [runner.infer_on_device(lr) for lr in inputs]
        torch.cuda.synchronize()
        streams, results = [torch.cuda.Stream() for _ in range(2)], []
        for index, lr in enumerate(inputs):
            with torch.cuda.stream(streams[index % 2]):
                results.append(runner.infer_on_device(lr))
        torch.cuda.synchronize()
    for sr, due in zip(results, expected, strict=True):
        torch.testing.assert_close(sr, due, rtol=0, atol=1e-5)


def test_a_refused_capture_is_computed_as_it_is(caplog):
    def compute(lr):
        return lr * float(lr.sum().item() > -1)  # .item() waits for the GPU, which no capture allows

    replay = GraphReplay(compute, "torch:fp32", torch.device("cuda", 0))
    (lr,) = pictures(1, 1, 3, 8, 8)
    for _ in range(4):
        torch.testing.assert_close(replay(lr), lr)
    assert replay.captured == 0
    assert len([text for text in caplog.messages if "no CUDA graph is captured" in text]) == 1
