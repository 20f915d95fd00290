"""Several devices at one sequence of pictures or frames: what they give comes in the order of what they were given."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from sr_deploy.backends import BackendChoice
from sr_deploy.errors import BackendError
from sr_deploy.model import Model, open_model
from sr_deploy.runners.threads import default_threads
from sr_deploy.upscale.image import Upscaler

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fault:
    """A device failed at something that another one did then."""

    device: int
    """Its number, from 0."""
    error: BackendError


class DevicePool(Generic[Job, Result]):
    """As many threads as devices; each thread takes a free device.

    A job that one device fails at goes to another. It fails itself once every device has failed at it. Use it as a
    context manager: leaving it waits for what is being computed and drops what is not begun.
    """

    def __init__(self, devices: Sequence[Callable[[Job], Result]]) -> None:
        """`devices`: what each does with a job; a `BackendError` is the device's failure, all others are the job's."""
        self._devices = devices
        self._free = set(range(len(devices)))
        self._changed = threading.Condition()
        self._threads = ThreadPoolExecutor(len(devices), "device")
        self.faults: list[Fault] = []
        """Of devices, at jobs that went well elsewhere."""

    def submit(self, job: Job) -> Future[Result]:
        """Give a job to the next free device. How many wait is the caller's to bound."""
        return self._threads.submit(self._work, job)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Future[Result]]]:
        """Do jobs side by side: each with its result, or its error, in the order of `jobs`.

        `jobs` is read as results are taken: no more than two for each device are begun and not yet taken.
        """
        begun: deque[tuple[Job, Future[Result]]] = deque()
        for job in jobs:
            begun.append((job, self.submit(job)))
            if len(begun) >= 2 * len(self._devices):
                yield _wait_for_first(begun)
        while begun:
            yield _wait_for_first(begun)

    def close(self) -> None:
        """Wait for what is being computed, and drop the rest."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _work(self, job: Job) -> Result:
        faults: list[Fault] = []
        while True:
            device = self._borrow({fault.device for fault in faults})
            try:
                result = self._devices[device](job)
            except BackendError as error:
                faults.append(Fault(device, error))
                if len(faults) == len(self._devices):
                    raise
            else:
                self.faults.extend(faults)
                return result
            finally:
                self._give_back(device)

    def _borrow(self, failed: set[int]) -> int:
        """A free device that has not failed at this job. There are as many threads as devices: it comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._free - failed)
            device = min(self._free - failed)
            self._free.remove(device)
            return device

    def _give_back(self, device: int) -> None:
        with self._changed:
            self._free.add(device)
            self._changed.notify_all()


def _wait_for_first(begun: deque[tuple[Job, Future[Result]]]) -> tuple[Job, Future[Result]]:
    begun[0][1].exception()
    return begun.popleft()


@contextmanager
def open_upscalers(
    model: Model | Path,
    devices: Sequence[str],
    *,
    backend: str = "auto",
    tile: int | None = None,
    batch: int | None = None,
) -> Iterator[list[Upscaler]]:
    """A network on each of several devices; the processors of the machine are shared out among those on the CPU.

    Args:
        model: a checkpoint, graph, bundle or engine, or its path.
        devices: as in `cuda:0`, `cuda:1`; `cpu` twice is two networks on the CPU; empty: one, where it runs best.
        backend: as `Upscaler` has it; the first device's holds for all.
        tile: as `Upscaler` has it.
        batch: as `Upscaler` has it.

    Raises:
        InputError: no such model.
        BackendError: the backend does not run on one of them.
    """
    opened = model if isinstance(model, Model) else open_model(model)
    on_cpu = devices.count("cpu")
    threads = max(1, default_threads() // on_cpu) if on_cpu > 1 else None
    with ExitStack() as stack:
        upscalers: list[Upscaler] = []
        choice: str | BackendChoice = backend
        for device in devices or (None,):
            upscaler = Upscaler(opened, backend=choice, tile=tile, device=device, threads=threads, batch=batch)
            upscalers.append(stack.enter_context(upscaler))
            choice = upscaler.spec.choice
        yield upscalers
