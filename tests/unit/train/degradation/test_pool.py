from __future__ import annotations

import pytest
import torch

from sr_deploy.errors import TrainingError
from sr_deploy.train.degradation import PairPool, TrainingPair


def make_pair(first: int, count: int, *, sharpened: bool = False, side: int = 4) -> TrainingPair:
    """Sample n is filled with level n, its low resolution alike, its target with n + 100."""
    levels = torch.arange(first, first + count).view(-1, 1, 1, 1).float() / 255
    hr = levels.expand(-1, 3, side, side).contiguous()
    return TrainingPair(hr[:, :, ::4, ::4].contiguous(), hr, hr + 100 / 255 if sharpened else hr)


def levels_of(image: torch.Tensor) -> list[int]:
    assert torch.equal(image, image[:, :1, :1, :1].expand_as(image))
    return (image[:, 0, 0, 0] * 255).round().int().tolist()


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (7, 5), (3, 8), (1, 1), (5, 5)])
def test_any_batch_size_keeps_every_pair_exactly_once(size, batch):
    pool = PairPool(size, seed=0)
    copies = {}
    for step in range(12):
        given = pool.exchange(make_pair(step * batch, batch), step)
        assert len(given.hr_NCHW) == batch
        assert given.target_NCHW is given.hr_NCHW
        numbers = levels_of(given.hr_NCHW)
        assert levels_of(given.lr_NCHW) == numbers
        assert len(set(numbers)) == batch
        for number in numbers:
            copies[number] = copies.get(number, 0) + 1
    # Pairs that filled the pool pass through and come out once more; all others come out at most once.
    assert all(times <= (2 if number < size else 1) for number, times in copies.items())
    state = pool.state_dict()
    inside = state["hr"][:, 0, 0, 0].tolist()
    assert state["hr"].dtype == torch.uint8
    assert len(set(inside)) == min(size, 12 * batch)
    fresh = set(range(12 * batch))
    assert fresh == set(copies) | set(inside)


def test_a_full_pool_mixes_batches():
    pool = PairPool(32, seed=0)
    for step in range(8):
        pool.exchange(make_pair(4 * step, 4), step)
    given = levels_of(pool.exchange(make_pair(100, 4), 8).hr_NCHW)
    assert all(number < 32 for number in given)
    assert len({number // 4 for number in given}) > 1


def test_targets_travel_with_their_pairs():
    pool = PairPool(6, seed=1)
    for step in range(6):
        given = pool.exchange(make_pair(4 * step, 4, sharpened=True), step)
        assert levels_of(given.target_NCHW) == [number + 100 for number in levels_of(given.hr_NCHW)]


def test_a_pool_goes_on_from_its_state():
    whole, before = PairPool(6, seed=2), PairPool(6, seed=2)
    for step in range(4):
        whole.exchange(make_pair(4 * step, 4), step)
        before.exchange(make_pair(4 * step, 4), step)
    after = PairPool(6, seed=2)
    after.load_state_dict({name: v.clone() if torch.is_tensor(v) else v for name, v in before.state_dict().items()})
    for step in range(4, 8):
        one, two = (pool.exchange(make_pair(4 * step, 4), step) for pool in (whole, after))
        assert torch.equal(one.hr_NCHW, two.hr_NCHW)
    empty = PairPool(6, seed=2)
    empty.load_state_dict(PairPool(6, seed=2).state_dict())
    assert levels_of(empty.exchange(make_pair(0, 4), 0).hr_NCHW) == [0, 1, 2, 3]


def test_no_pool_lets_everything_pass():
    pair = make_pair(0, 4)
    assert PairPool(0, seed=0).exchange(pair, 0) is pair


def test_what_does_not_fit_is_refused():
    pool = PairPool(6, seed=0)
    pool.exchange(make_pair(0, 4), 0)
    with pytest.raises(TrainingError, match=r"the pool keeps .* must keep their size"):
        pool.exchange(make_pair(0, 4, side=8), 1)
    with pytest.raises(TrainingError, match="not one of 5 pairs"):
        PairPool(5, seed=0).load_state_dict(pool.state_dict())
