"""Buffers that are used in turn, and the ways to a device, here torch's CPU."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from sr_deploy.upscale.guards import cell_weights
from sr_deploy.upscale.lanes import SLOTS, Lanes, Ring


class Copied:
    """Stands for a CUDA event: notes that it was waited for."""

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


def test_a_buffer_is_used_again_only_after_its_copy() -> None:
    ring, copies = Ring(2, pinned=False), [Copied() for _ in range(4)]
    taken = [ring.take((4, 3), torch.uint8, cast("Any", copy)) for copy in copies]
    assert [copy.waits for copy in copies] == [1, 1, 0, 0]
    places = [buffer.data_ptr() for buffer in taken]
    assert places[:2] == places[2:]
    assert places[0] != places[1]


def test_buffers_grow_and_keep_what_they_have() -> None:
    ring = Ring(1, pinned=False)
    small = ring.take((2, 2), torch.float32, None)
    large = ring.take((5, 5), torch.float32, None)
    assert (tuple(small.shape), tuple(large.shape), large.dtype) == ((2, 2), (5, 5), torch.float32)
    assert ring.take((3,), torch.uint8, None).data_ptr() == large.data_ptr()


def test_what_is_sent_is_not_overwritten_by_what_is_sent_next() -> None:
    lanes, random = Lanes("cpu"), np.random.default_rng(0)
    batches = [random.integers(0, 256, (2, 5, 7, 3), np.uint8) for _ in range(SLOTS + 2)]
    sent = [lanes.send(list(batch)) for batch in batches]
    for batch, tensor in zip(batches, sent, strict=True):
        assert np.array_equal(tensor.numpy(), batch)


def test_views_are_sent_and_fetched() -> None:
    lanes = Lanes("cpu")
    picture = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    sent = lanes.send([picture[1:4, 1:3]])
    assert np.array_equal(sent[0].numpy(), picture[1:4, 1:3])
    target = np.zeros((5, 4, 3), np.uint8)
    lanes.fetch(sent[0], target[1:4, 1:3])
    assert np.array_equal(target[1:4, 1:3], picture[1:4, 1:3])
    assert target[0].sum() == 0


def test_weights_are_those_of_the_guards() -> None:
    lanes = Lanes("cpu")
    assert np.array_equal(lanes.weights(70, 2).numpy(), cell_weights(70, 2))
    assert lanes.weights(70, 2) is lanes.weights(70, 2)
