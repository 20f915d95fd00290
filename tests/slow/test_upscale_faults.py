"""A folder job loses nothing and reports everything: killed, interrupted, out of memory, with wrong results."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sr_deploy.errors import OutOfMemoryError
from sr_deploy.imaging.codec import read_image
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.folder_journal import JOURNAL_NAME
from sr_deploy.upscale.image import Upscaler

KILLS = 10
PICTURES = 60

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_gentle_network, write_pictures):
    """A network near bicubic, so that no guard objects, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("job")
    write_gentle_network(folder / "net.safetensors")
    write_pictures(folder / "in", PICTURES, 130, 170)
    return folder


def start_job(prepared, out):
    words = ["upscale", str(prepared / "in"), str(out), "--model", str(prepared / "net.safetensors")]
    return subprocess.Popen(
        [sys.executable, "-m", "sr_deploy", *words, "--backend", "torch", "--tile", "64", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_results(out):
    """Bytes of all results by path; half-written ones have names that begin with a dot."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def wait_for_results(process, out, more_than):
    while process.poll() is None and len(read_results(out)) <= more_than:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def unbroken(prepared):
    process = start_job(prepared, prepared / "unbroken")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert len(json.loads(stdout)["written"]) == PICTURES
    return read_results(prepared / "unbroken")


def test_killed_at_random_moments(prepared, unbroken, tmp_path):
    out = tmp_path / "killed"
    chance = random.Random(0)
    process = start_job(prepared, out)
    kills = 0
    while kills < KILLS:
        wait_for_results(process, out, len(read_results(out)))
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        for name, content in read_results(out).items():
            assert content == unbroken[name]
        process = start_job(prepared, out)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    document = json.loads(stdout)
    assert kills == KILLS
    assert (document["failed"], document["left"]) == ([], [])
    assert document["skipped"]
    assert read_results(out) == unbroken
    hidden = sorted(path.name for path in out.rglob(".*"))
    assert hidden == [JOURNAL_NAME]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_jobs_say_what_is_left(prepared, unbroken, tmp_path, number):
    out = tmp_path / "out"
    process = start_job(prepared, out)
    wait_for_results(process, out, 3)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    document = json.loads(stdout)
    assert document["stopped"]
    assert len(document["written"]) + len(document["left"]) == PICTURES
    assert document["left"]
    results = read_results(out)
    assert len(results) == len(document["written"])
    assert all(content == unbroken[name] for name, content in results.items())
    assert not list(out.rglob(".partial-*"))


class FaultyRunner(BaseRunner):
    """Repeats pixels; at random windows memory runs out, or what it gives is no picture."""

    def __init__(self, seed, share):
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3))
        self.chance = random.Random(seed)
        self.share = share
        self.faults = {"nan": 0, "memory": 0}

    def _infer(self, lr_NCHW):
        sr = np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)
        if self.chance.random() < self.share:
            kind = self.chance.choice(("nan", "memory"))
            self.faults[kind] += 1
            if kind == "memory":
                raise OutOfMemoryError("no memory, said a test")
            sr[0, 0, 0, 0] = np.nan
        return sr

    def _release(self):
        pass


@pytest.mark.parametrize("seed", range(4))
def test_faults_at_random_tiles_never_reach_a_file(prepared, tmp_path, seed):
    runner = FaultyRunner(seed, 0.08)
    with Upscaler(runner, tile=64, halo=0) as upscaler:
        result = upscale_folder(upscaler, prepared / "in", tmp_path / "out")
    assert runner.faults["nan"] > 5
    assert runner.faults["memory"] > 5
    assert len(result.done) + len(result.failures) == PICTURES
    assert result.done
    recomputed = sum(done.recomputed for done in result.done)
    assert recomputed + len(result.failures) > 0
    halvings = sum(report.halvings for done in result.done for report in done.reports)
    assert halvings > 0 or result.failures
    assert len(read_results(tmp_path / "out")) == len(result.done)
    for done in result.done:
        expected = read_image(done.source)
        expected = np.repeat(np.repeat(expected, 2, axis=0), 2, axis=1)
        limit = 0 if done.target.suffix in (".png", ".tif") else 8
        assert np.abs(read_image(done.target).astype(int) - expected).mean() <= limit
    runner.share = 0.0
    with Upscaler(runner, tile=64, halo=0) as upscaler:
        again = upscale_folder(upscaler, prepared / "in", tmp_path / "out", tile=None)
    assert len(again.done) == len(result.failures)
    assert not again.failures
