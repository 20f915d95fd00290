from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.errors import BackendError, GuardError, ImageError
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.devices import DevicePool, open_upscalers
from sr_deploy.upscale.folder import FolderResult, upscale_folder
from sr_deploy.upscale.folder_journal import JOURNAL_NAME
from sr_deploy.upscale.image import Upscaler

PICTURES = 7

# --- the pool


def test_results_come_in_the_order_of_the_jobs() -> None:
    """The first device waits until the second one has done three jobs."""
    three_done = threading.Event()
    seen: list[tuple[int, int]] = []

    def work(device: int) -> Callable[[int], int]:
        def do(job: int) -> int:
            if device == 0 and job == 0:
                assert three_done.wait(10)
            seen.append((device, job))
            if len(seen) == 3:
                three_done.set()
            return job * job

        return do

    with DevicePool([work(0), work(1)]) as pool:
        found = [(job, future.result()) for job, future in pool.run(range(12))]
    assert found == [(job, job * job) for job in range(12)]
    assert seen[:3] == [(1, 1), (1, 2), (1, 3)]
    assert pool.faults == []


def test_no_more_is_begun_than_two_for_each_device() -> None:
    given: list[int] = []

    def give() -> Iterator[int]:
        for job in range(20):
            given.append(job)
            yield job

    with DevicePool([abs, abs]) as pool:
        for taken, (job, future) in enumerate(pool.run(give())):
            assert future.result() == job == taken
            assert len(given) <= taken + 4
    assert len(given) == 20


def refuse(jobs: set[int]) -> Callable[[int], int]:
    def do(job: int) -> int:
        if job in jobs:
            raise BackendError(f"no {job}")
        return -job

    return do


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_what_one_device_fails_at_another_does(dead: int) -> None:
    devices = [refuse(set(range(30)) if number == dead else set()) for number in range(3)]
    with DevicePool(devices) as pool:
        assert [future.result() for _, future in pool.run(range(30))] == [-job for job in range(30)]
    assert {fault.device for fault in pool.faults} <= {dead}
    assert all(str(fault.error).startswith("no ") for fault in pool.faults)


def test_a_job_fails_once_every_device_failed() -> None:
    with DevicePool([refuse({3, 5}), refuse({5})]) as pool:
        futures = dict(pool.run(range(8)))
    assert [job for job, future in futures.items() if future.exception()] == [5]
    assert str(futures[5].exception()) == "no 5"
    assert {(fault.device, str(fault.error)) for fault in pool.faults} <= {(0, "no 3")}


def test_errors_of_the_job_are_not_tried_again() -> None:
    calls: list[int] = []

    def fail(job: int) -> int:
        calls.append(job)
        raise ImageError("no picture")

    with DevicePool([fail, fail]) as pool:
        future = pool.submit(7)
        assert isinstance(future.exception(), ImageError)
    assert calls == [7]
    assert pool.faults == []


def test_leaving_drops_what_is_not_begun() -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(job: int) -> int:
        begun.set()
        assert go.wait(10)
        return job

    with DevicePool([wait]) as pool:
        futures = [pool.submit(job) for job in range(3)]
        begun.wait(10)
        threading.Timer(0.05, go.set).start()
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert futures[0].result() == 0


# --- a folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    photograph = np.ascontiguousarray(read_image(bundled_photographs()["chelsea"])[60:90, 100:141])
    for number in range(PICTURES):
        write_image(tmp_path / "in" / f"{number % 2}" / f"{number}.png", np.roll(photograph, 5 * number, axis=1))
    (tmp_path / "in" / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "in"


class NearestRunner(BaseRunner):
    """Repeats pixels, or does what a test wants."""

    def __init__(self, at_call: Callable[[int], None] = lambda call: None) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3))
        self.calls = 0
        self._at_call = at_call

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        self._at_call(self.calls)
        return np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)

    def _release(self) -> None:
        pass


def read_results(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def read_record(folder: Path) -> list[tuple[str, str, str]]:
    """What was finished: target, hash of the source, hash of the making."""
    entries = [json.loads(line) for line in (folder / JOURNAL_NAME).read_text().splitlines()[1:]]
    return sorted(
        (entry["target"], entry["source_sha256"], entry["config_hash"]) for entry in entries if entry["source_sha256"]
    )


def describe(result: FolderResult, out: Path) -> object:
    """All of a report but the times."""
    done = [(file.source, file.target.relative_to(out), file.target_width, file.losses) for file in result.done]
    return done, result.skipped, result.failures, result.left, result.stopped


def test_two_devices_give_the_files_the_record_and_the_report_of_one(tmp_path: Path, source: Path) -> None:
    with Upscaler(NearestRunner(), halo=0) as one:
        alone = upscale_folder(one, source, tmp_path / "alone")
    shared = threading.Barrier(2, timeout=20)  # neither goes on before both have begun
    runners = [NearestRunner(lambda call: shared.wait() if call == 1 else None) for _ in range(2)]
    progress: list[float] = []
    with Upscaler(runners[0], halo=0) as first, Upscaler(runners[1], halo=0) as second:
        both = upscale_folder(
            [first, second], source, tmp_path / "both", on_progress=lambda now: progress.append(now.done / now.total)
        )
    assert runners[0].calls + runners[1].calls == PICTURES
    assert min(runner.calls for runner in runners) >= 1
    assert len(read_results(tmp_path / "both")) == PICTURES
    assert read_results(tmp_path / "both") == read_results(tmp_path / "alone")
    assert read_record(tmp_path / "both") == read_record(tmp_path / "alone")
    assert describe(both, tmp_path / "both") == describe(alone, tmp_path / "alone")
    assert both.faults == []
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(1)


@pytest.mark.parametrize("error", [BackendError("the device is lost"), GuardError("values that are not finite")])
def test_no_file_is_lost_with_a_device(tmp_path: Path, source: Path, error: BackendError) -> None:
    def lose(call: int) -> None:
        if call > 1:
            raise error

    begun = threading.Barrier(2, timeout=20)
    sound = NearestRunner(lambda call: begun.wait() if call == 1 else None)
    lost = NearestRunner(lambda call: begun.wait() if call == 1 else lose(call))
    with Upscaler(lost, halo=0, guards=None) as first, Upscaler(sound, halo=0) as second:
        result = upscale_folder([first, second], source, tmp_path / "out")
    assert len(result.done) == PICTURES
    assert [failure.source.name for failure in result.failures] == ["broken.png"]
    assert result.faults
    assert set(result.faults) == {f"cpu: {error}"}
    assert sound.calls + lost.calls == PICTURES + len(result.faults)


def test_stopping_stops_all_devices(tmp_path: Path, source: Path) -> None:
    stop = threading.Event()
    upscalers = [Upscaler(NearestRunner(lambda call: stop.set() if call == 2 else None), halo=0) for _ in range(2)]
    result = upscale_folder(upscalers, source, tmp_path / "out", stop=stop)
    assert result.stopped
    assert len(result.done) + len(result.left) + len(result.failures) == PICTURES + 1
    assert result.left
    assert len(read_results(tmp_path / "out")) == len(result.done)


# --- real networks


def test_networks_on_several_devices(compact_bundle: Path) -> None:
    with open_upscalers(compact_bundle, ["cpu", "cpu"], backend="onnxruntime", tile=16) as upscalers:
        assert [str(upscaler.spec) for upscaler in upscalers] == ["onnxruntime:fp32"] * 2
        assert [upscaler.spec.device for upscaler in upscalers] == ["cpu", "cpu"]
        frames = [np.full((20, 24, 3), 20 * number, np.uint8) for number in range(6)]
        expected = [upscalers[0](frame) for frame in frames]
        with DevicePool(upscalers) as pool:
            found = [future.result() for _, future in pool.run(frames)]
    assert all(np.array_equal(sr, due) for sr, due in zip(found, expected, strict=True))
    with open_upscalers(compact_bundle, []) as upscalers:
        assert len(upscalers) == 1
    with (
        pytest.raises(BackendError, match="'cuda:7'"),
        open_upscalers(compact_bundle, ["cpu", "cuda:7"], backend="onnxruntime"),
    ):
        pass


@pytest.fixture
def compact_bundle(tmp_path: Path, make_bundle: Callable[[str, Path], object]) -> Path:
    return make_bundle("compact-x4", tmp_path).path  # type: ignore[attr-defined]
