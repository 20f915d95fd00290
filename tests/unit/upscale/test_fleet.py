from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.deps import is_installed
from sr_deploy.errors import InputError, MissingDependencyError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.upscale.fleet import open_fleet
from sr_deploy.upscale.folder_job import hash_config
from sr_deploy.upscale.folder_journal import stamp_of
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings, upscale_file
from sr_deploy.upscale.output_naming import Item
from sr_deploy.upscale.ray_worker import Worker, WorkerConfig

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_network) -> Path:
    made = tmp_path_factory.mktemp("fleet")
    write_network(made / "net.safetensors", SPEC)
    write_image(made / "in" / "a.png", np.ascontiguousarray(read_image(bundled_photographs()["coffee"])[:40, :50]))
    (made / "in" / "b.png").write_text("no picture")
    return made


def test_a_worker_does_a_file_as_one_process_does_and_tells_what_goes_wrong(folder: Path, tmp_path: Path) -> None:
    config = WorkerConfig(folder / "net.safetensors", backend="torch", tile=16, device="cpu")
    settings = FileSettings(alpha="bicubic")
    items = [Item(folder / "in" / name, name, tmp_path / "out" / name) for name in ("a.png", "b.png")]
    (tmp_path / "out").mkdir()
    worker = Worker(config, settings, threads=None)
    batch = {"number": np.array([4, 7]), "item": np.array(items, dtype=object)}
    good, bad = worker(batch)["result"]
    assert (good.number, good.reason, good.sha256, good.stamp) == (
        4,
        "",
        sha256_of(items[0].source),
        stamp_of(items[0].source),
    )
    with Upscaler(config.model, backend="torch", tile=16) as upscaler:
        upscale_file(upscaler, items[0].source, tmp_path / "alone.png", settings)
        assert good.config_hash == hash_config(upscaler.spec, settings, 16)
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert (bad.number, bad.done, bad.device_failed) == (7, None, False)
    assert "b.png is not a picture that can be read" in bad.reason


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", r"no Ray cluster at 127\.0\.0\.1:1: .*refused; start one with: ray start --head"),
        ("ray://host:10001", "no Ray cluster at ray://host:10001"),
        ("somewhere", "--ray takes local, auto or HOST:PORT"),
        ("host:port", "--ray takes local, auto or HOST:PORT"),
    ],
)
def test_no_cluster_is_said_at_once(folder: Path, address: str, reason: str) -> None:
    if not is_installed("ray"):
        pytest.skip("Ray is not installed: pip install 'sr-deploy[ray]'")
    with pytest.raises(InputError, match=reason), open_fleet(address, WorkerConfig(folder / "net.safetensors")):
        pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_devices_of_a_cluster_are_rays_to_choose(folder: Path) -> None:
    config = WorkerConfig(folder / "net.safetensors", device="cuda:1")
    with pytest.raises(InputError, match="with --ray the device is cpu, or left out"), open_fleet("local", config):
        pass


def test_without_ray_the_command_that_installs_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = replace(WorkerConfig(folder / "net.safetensors"), device="cpu")
    with (
        pytest.raises(MissingDependencyError, match=r"needs ray, which .*pip install 'sr-deploy\[ray\]'"),
        open_fleet("local", config),
    ):
        pass
