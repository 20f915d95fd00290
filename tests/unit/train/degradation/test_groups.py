from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_deploy.train.degradation.groups import map_groups


@pytest.mark.parametrize("keys", [[1, 1, 1, 1], [1, 2, 1, 2], [3, 1, 1, 2], [4, 3, 2, 1]])
def test_each_sample_comes_back_to_its_place_and_the_input_stays(photographs, keys):
    before, keys = photographs.clone(), np.array(keys)

    def work(images, run):
        assert len(set(keys[run])) == 1
        return images * 0.5 + float(keys[run.start])

    done = map_groups(work, photographs, keys)
    assert torch.equal(photographs, before)
    assert torch.equal(done, photographs * 0.5 + torch.from_numpy(keys).view(4, 1, 1, 1))


def test_samples_given_back_as_they_are_are_copied_among_others(photographs):
    keys = np.array([0, 1, 0, 1])
    done = map_groups(lambda images, run: images if keys[run.start] else -images, photographs, keys)
    assert torch.equal(done[1::2], photographs[1::2])
    assert torch.equal(done[0::2], -photographs[0::2])


@pytest.mark.parametrize(
    ("keys", "runs"),
    [([3, 1, 1, 3], [(0, 1), (1, 3), (3, 4)]), ([False] * 4, [(0, 4)]), ([2, 2, 1, 1], [(0, 2), (2, 4)])],
)
def test_neighbors_alike_are_done_together(photographs, keys, runs):
    seen = []

    def work(images, run):
        seen.append((run.start, run.stop))
        assert torch.equal(images, photographs[run])
        return images[:, :1] * 2  # one channel, which stands for all

    done = map_groups(work, photographs, np.array(keys))
    assert seen == runs
    assert torch.equal(done.expand_as(photographs), photographs[:, :1].expand_as(photographs) * 2)
