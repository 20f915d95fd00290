from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_deploy.train.degradation.groups import map_groups


@pytest.mark.parametrize("keys", [[1, 1, 1, 1], [1, 2, 1, 2], [3, 1, 1, 2], [4, 3, 2, 1]])
def test_each_sample_comes_back_to_its_place_and_the_input_stays(photographs, keys):
    before, keys = photographs.clone(), np.array(keys)

    def work(images, places):
        assert len(set(keys[places])) == 1
        return images * 0.5 + float(keys[places[0]])

    done = map_groups(work, photographs, keys)
    assert torch.equal(photographs, before)
    assert torch.equal(done, photographs * 0.5 + torch.from_numpy(keys).view(4, 1, 1, 1))


def test_samples_given_back_as_they_are_are_copied_among_others(photographs):
    keys = np.array([0, 1, 0, 1])
    done = map_groups(lambda images, places: images if keys[places[0]] else -images, photographs, keys)
    assert torch.equal(done[1::2], photographs[1::2])
    assert torch.equal(done[0::2], -photographs[0::2])
