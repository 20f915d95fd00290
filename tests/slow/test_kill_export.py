"""Exports and builds that are killed at random moments: what stood before stands, and the next run clears up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sr_deploy.bundle import find_newest_bundle, open_bundle
from sr_deploy.deps import is_installed

pytestmark = pytest.mark.slow

KILLS = 4


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sr_deploy", *words, "--json"]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(folder: Path, *words: str) -> float:
    """Run to the end; the seconds that it took."""
    began = time.monotonic()
    process = start(folder, *words)
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return time.monotonic() - began


def list_hidden(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


def find_builders() -> set[int]:
    """Builders of this test: their process group is its own."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if b"sr_deploy.backends.tensorrt.build_worker" in command and int(fields[2]) == os.getpgrp():
            found.add(int(status.parent.name))
    return found


def read_all(bundle: Path) -> dict[str, bytes]:
    found = (path for path in bundle.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(bundle)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, write_gentle_network):
    """A folder with a network and its bundle, and how long the export took."""
    folder = tmp_path_factory.mktemp("export")
    write_gentle_network(folder / "net.safetensors", 8, 1)
    return folder, finish(folder, "export", "net.safetensors", "--fp16")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_export_leaves_the_bundle_before_it_or_a_whole_new_one(exported, number):
    folder, seconds = exported
    bundle = folder / "deployments" / "net"
    chance = random.Random(number)
    seen = []
    for _ in range(KILLS):
        before = read_all(bundle)
        process = start(folder, "export", "net.safetensors", "--fp16")
        time.sleep(chance.uniform(0.1, 0.9) * seconds)
        process.send_signal(number)
        said = process.communicate(timeout=120)
        if number != signal.SIGKILL:
            assert process.returncode in (130, 0), said
            assert list_hidden(folder / "deployments") == []
        assert find_newest_bundle(folder / "deployments") == bundle
        opened = open_bundle(bundle)  # holds every file against its hash
        opened.engines()
        opened.certificate()
        after = read_all(bundle)
        unchanged = all(after.get(name) == content for name, content in before.items())
        assert unchanged or after["bundle.json"] != before["bundle.json"]
        seen.append(process.returncode)
    assert any(code != 0 for code in seen)
    finish(folder, "export", "net.safetensors", "--fp16")
    assert list_hidden(folder / "deployments") == []
    assert os.listdir(folder / "deployments") == ["net"]
    assert {"bundle.json", "certificate.json", "model.fp16.onnx"} <= set(read_all(bundle))


def test_a_first_export_that_is_killed_leaves_nothing_that_counts(exported, tmp_path):
    folder, seconds = exported
    words = ("export", str(folder / "net.safetensors"))
    for share in (0.3, 0.5, 0.7):
        process = start(tmp_path, *words)
        time.sleep(share * seconds)
        process.kill()
        process.communicate()
        for path in (tmp_path / "deployments").glob("[!.]*"):
            open_bundle(path)
    finish(tmp_path, *words)
    assert os.listdir(tmp_path / "deployments") == ["net"]
    assert list_hidden(tmp_path / "deployments") == []


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="builds engines: pip install 'sr-deploy[rtx]'")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_leaves_whole_engines_and_no_builder(exported, tmp_path, number):
    folder, _ = exported
    finish(tmp_path, "export", str(folder / "net.safetensors"), "--fp16", "--backend", "none")
    bundle = tmp_path / "deployments" / "net"
    words = ("build", "deployments/net", "--backend", "tensorrt-rtx", "--compute-capability")
    seconds = finish(tmp_path, *words, "sm86")
    chance = random.Random(number)
    for capability in ("sm75", "sm80", "sm89", "sm120"):
        others = find_builders()
        process = start(tmp_path, *words, capability)
        time.sleep(chance.uniform(0.3, 0.95) * seconds)
        process.send_signal(number)
        process.communicate(timeout=120)
        opened = open_bundle(bundle)
        assert len(opened.engines()) == len(opened.intact_engines()) >= 2
        opened.certificate()
        deadline = time.monotonic() + 60
        while find_builders() - others and time.monotonic() < deadline:
            time.sleep(0.1)
        assert find_builders() - others == set()  # one whose starter is dead ends by itself
    finish(tmp_path, *words, "sm89")
    assert list_hidden(bundle) == []
    assert {record.precision for record in open_bundle(bundle).engines() if record.target == "sm89"} == {"fp32", "fp16"}
