"""Several processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from sr_deploy.errors import SrDeployError, TrainingError, one_line

T = TypeVar("T")

# One process validates and writes while the others wait for it.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """Who trains along. With one process nothing is sent."""

    rank: int = 0
    """Number of this process among all, from 0."""
    world_size: int = 1
    """Processes on all machines together, at least 1."""
    local_rank: int = 0
    """Number of this process on its machine, from 0: which GPU it takes."""

    @property
    def is_main(self) -> bool:
        """Whether this process validates and writes: rank 0."""
        return self.rank == 0

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them; its error likewise.

        Raises:
            SrDeployError: what `make` raised.
        """
        if self.world_size == 1:
            return make()
        message: list[T | SrDeployError | None] = [None]
        if self.is_main:
            try:
                message[0] = make()
            except SrDeployError as error:
                message[0] = error
        distributed.broadcast_object_list(message, src=0)
        result = message[0]
        if isinstance(result, SrDeployError):
            raise result
        return result  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all get the same answer at the same step."""
        if self.world_size == 1:
            return flag
        highest = torch.tensor(int(flag))
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return bool(highest)

    def all_healthy(self, healthy: Tensor) -> Tensor:
        """Whether a flag (0-dim, bool, on any device) is set in every process."""
        if self.world_size == 1:
            return healthy
        flag = healthy.int()
        distributed.all_reduce(flag, distributed.ReduceOp.MIN)
        return flag.bool()

    def average(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.world_size > 1:
            distributed.all_reduce(values)
            values /= self.world_size
        return values

    def gather(self, part: T) -> list[T]:
        """The parts of all processes by rank, in the first one; nothing in the others."""
        if self.world_size == 1:
            return [part]
        parts: list[T | None] | None = [None] * self.world_size if self.is_main else None
        distributed.gather_object(part, parts, dst=0)
        return [one for one in parts or [] if one is not None]

    def share_gradients(self, network: nn.Module, device: torch.device, *, share_buffers: bool) -> nn.Module:
        """A network whose gradients are averaged over the processes (DistributedDataParallel); itself if alone."""
        if self.world_size == 1:
            return network
        data_parallel: Callable[..., nn.Module] = nn.parallel.DistributedDataParallel
        ids = [device.index] if device.type == "cuda" else None
        # torch 2.13 renamed the option and warns of the old name; 2.11 knows the old one only.
        known = inspect.signature(data_parallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return data_parallel(network, device_ids=ids, **{option: share_buffers})


SINGLE_PROCESS = Processes()


@contextmanager
def join_processes(device: str | None) -> Iterator[Processes]:
    """Meet the processes that torchrun started beside this one; without torchrun there is this one only.

    Args:
        device: as asked for; `cpu` lets GPUs alone.

    Raises:
        TrainingError: torchrun's variables are there, but the processes do not find each other.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    on_gpu = torch.cuda.is_available() and device != "cpu"
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = one_line(error)
        raise TrainingError(
            f"WORLD_SIZE = {world_size} says that torchrun started this, but the processes do not find each other "
            f"({reason}); start them as: torchrun --nproc-per-node {world_size} -m sr_deploy train ..."
        ) from error
    try:
        yield Processes(distributed.get_rank(), world_size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        distributed.destroy_process_group()
