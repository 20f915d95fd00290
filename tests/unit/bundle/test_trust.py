"""Engines are code: what opens them, and what does not. The real builder and the real bindings; no GPU is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

import sr_deploy
from sr_deploy.backends import BackendChoice, builders
from sr_deploy.backends.registry import get_builder
from sr_deploy.backends.tensorrt.open_engine import KernelCache, load_engine, open_engine
from sr_deploy.bundle import EngineOptions, Shape, open_bundle
from sr_deploy.bundle.engine_folder import runtime_cache_name
from sr_deploy.bundle.trust import (
    EngineTrust,
    register_engine,
    was_adopted,
    was_built_here,
    were_made_here,
    why_not_trusted,
)
from sr_deploy.cache import cache_folder, kept_path
from sr_deploy.cli import main
from sr_deploy.engine.bundle import build_engines
from sr_deploy.errors import BackendError
from sr_deploy.gpus import Gpu, visible_gpus
from sr_deploy.model import open_model
from sr_deploy.runners.autotune import AutotuneResult
from sr_deploy.runners.engines import find_engine, list_untrusted, make_search
from sr_deploy.upscale.backend import choose_backend

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", "sm89")
CHOICE = BackendChoice("tensorrt-rtx", "fp32")


@pytest.fixture(scope="module")
def built(make_bundle, tmp_path_factory):
    bundle = make_bundle("compact-x4", tmp_path_factory.mktemp("trust"))
    build_engines(bundle, "tensorrt-rtx", compute_capabilities=["sm89"])
    return bundle


@pytest.fixture
def bundle(built, tmp_path):
    """A copy, as it comes from elsewhere or goes there."""
    shutil.copytree(built.path, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Another user: nothing stands in the registry."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "another"))


def engine_of(bundle):
    (record,) = bundle.engines()
    return record, bundle.path / record.engine.file


def search_for(bundle, trust=None):
    model = open_model(bundle.path) if trust is None else open_model(bundle.path, trust)
    return make_search(model, CHOICE, builders.sdk_version("tensorrt-rtx"), RTX_4090)


def test_nothing_but_the_gate_hands_bytes_to_an_sdk():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "sr_deploy").rglob("*.py"))
        if re.search(r"deserialize_cuda_engine|engine_host_code_allowed|load_runtime", path.read_text())
    ]
    assert found == ["sr_deploy/backends/tensorrt/open_engine.py"]


def test_an_engine_that_was_built_here_is_found_and_reaches_the_sdk(bundle, capfd):
    record, path = engine_of(bundle)
    assert was_built_here(record)
    assert find_engine(bundle.engines(), search_for(bundle)) == record
    if visible_gpus():
        pytest.skip("the rest is for machines without a GPU")
    sdk = get_builder("tensorrt-rtx").select_sdk()
    with pytest.raises(BackendError, match=r"cannot load .*deserializeCudaEngine.*; build it again"):
        load_engine(sdk, path, EngineTrust())  # no driver: the SDK itself says so
    assert "".join(capfd.readouterr()) == ""


def test_an_engine_from_elsewhere_reaches_no_sdk_unless_it_is_trusted(bundle, elsewhere, capfd):
    record, path = engine_of(bundle)
    assert not was_built_here(record)
    sdk = get_builder("tensorrt-rtx").select_sdk()
    with pytest.raises(BackendError, match=r"\.engine: the engine was not built here, .* --trust-engine$") as raised:
        load_engine(sdk, path, EngineTrust())
    assert "\n" not in str(raised.value)
    assert "".join(capfd.readouterr()) == ""  # not even a runtime was made
    with pytest.raises(BackendError, match="was not built here, and an engine is code"):
        find_engine(bundle.engines(), search_for(bundle))
    assert find_engine(bundle.engines(), search_for(bundle, EngineTrust(elsewhere=True))) == record
    assert list_untrusted(open_model(bundle.path)) == [f"{record.engine.file} {why_not_trusted(record, EngineTrust())}"]
    assert list_untrusted(open_model(bundle.path, EngineTrust(elsewhere=True))) == []


def test_bytes_count_and_not_what_a_record_says(bundle, elsewhere):
    """A record that names a registered engine's hash does not open another file."""
    record, path = engine_of(bundle)
    register_engine(record)
    content = path.read_bytes()
    assert were_made_here(content)
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(BackendError, match="was not built here"):
        load_engine(get_builder("tensorrt-rtx").select_sdk(), path, EngineTrust())


def test_a_registry_of_another_user_or_a_damaged_one_counts_for_nothing(bundle, monkeypatch):
    record, _ = engine_of(bundle)
    entry = kept_path("built", record.engine.sha256)
    assert entry.is_file()
    assert was_built_here(record)
    monkeypatch.setattr(os, "geteuid", lambda: entry.stat().st_uid + 1000)
    if entry.stat().st_uid:  # what the administrator entered counts for everybody
        assert not was_built_here(record)
    monkeypatch.undo()
    whole = entry.read_text()
    other = json.loads(whole) | {"sha256": "0" * 64}
    for text in ("{", json.dumps(other)):
        entry.write_text(text)
        assert not was_built_here(record)
    entry.write_text(whole)
    assert was_built_here(record)
    assert not was_built_here(record.model_copy(update={"target": "sm86"}))


def test_auto_treats_an_untrusted_engine_as_absent_and_says_so(bundle, elsewhere, monkeypatch, caplog):
    """The GPU is made up, as there is none: what `auto` decides needs none."""
    record, _ = engine_of(bundle)
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: (RTX_4090,))
    monkeypatch.setattr("sr_deploy.upscale.backend._why_torch_sees_no_gpu", lambda: "")
    monkeypatch.setattr(
        "sr_deploy.runners.autotune.autotune",
        lambda _, candidates, **__: AutotuneResult(candidates[0], Shape(1, 32, 32), {str(candidates[0]): 1.0}, {}),
    )
    with caplog.at_level("DEBUG", logger="sr_deploy"):
        chosen = choose_backend(open_model(bundle.path), "auto")
    assert chosen.backend != "tensorrt-rtx"
    assert f"--backend auto leaves out {record.engine.file} was not built here" in caplog.text
    assert choose_backend(open_model(bundle.path, EngineTrust(elsewhere=True)), "auto") == CHOICE
    register_engine(record)
    assert choose_backend(open_model(bundle.path), "auto") == CHOICE


def test_build_replaces_what_others_built_and_keeps_it_where_they_are_trusted(bundle, elsewhere, capsys):
    record, path = engine_of(bundle)
    marked = path.stat().st_mtime_ns
    command = ["build", str(bundle.path), "--backend", "tensorrt-rtx", "--compute-capability", "sm89", "--json"]
    assert main([*command, "--trust-engine"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [one["key"] for one in done["kept"]] == [record.key]
    assert (done["built"], path.stat().st_mtime_ns) == ([], marked)
    assert find_engine(bundle.engines(), search_for(bundle)) == record  # from now on without being told
    assert was_adopted(record)
    assert not was_built_here(record)  # of that the registry knows nothing
    assert main(command) == 0
    assert [one["key"] for one in json.loads(capsys.readouterr().out)["kept"]] == [record.key]
    shutil.rmtree(cache_folder())
    assert main(command) == 0
    done = json.loads(capsys.readouterr().out)
    assert ([one["key"] for one in done["built"]], done["kept"]) == ([record.key], [])
    assert was_built_here(engine_of(bundle)[0])
    assert main(command) == 0
    assert [one["key"] for one in json.loads(capsys.readouterr().out)["kept"]] == [record.key]


def test_a_registry_that_cannot_be_written_is_said_and_the_engine_is_kept(bundle, monkeypatch, tmp_path, said):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "file"))
    result = build_engines(bundle, "tensorrt-rtx", compute_capabilities=["sm89"])
    assert len(result.built) == 1
    assert "it will not be opened without --trust-engine" in said[-1]
    assert "a file stands where a folder is needed" in said[-1]


def test_code_for_the_cpu_is_off_unless_it_is_asked_for(bundle):
    record, path = engine_of(bundle)
    allowed: list[bool] = []

    class Runtime(get_builder("tensorrt-rtx").select_sdk().Runtime):
        def deserialize_cuda_engine(self, content):
            allowed.append(self.engine_host_code_allowed)
            return super().deserialize_cuda_engine(content)

    sdk = ModuleType("tensorrt_rtx_watched")
    vars(sdk).update(ILogger=get_builder("tensorrt-rtx").select_sdk().ILogger, Runtime=Runtime)
    for trust in (EngineTrust(), EngineTrust(elsewhere=True), EngineTrust(host_code=True)):
        open_engine(sdk, path.read_bytes(), trust)
    assert allowed == [False, False, True]
    flags = EngineOptions(version_compatible=True).as_flags()
    compatible = record.model_copy(update={"flags": flags})
    assert "allow that with --engine-host-code" in why_not_trusted(compatible, EngineTrust())
    assert why_not_trusted(compatible, EngineTrust(host_code=True)) is None
    assert why_not_trusted(record, EngineTrust()) is None


def test_compiled_kernels_of_others_are_not_taken(bundle, elsewhere):
    """The runtime configuration needs a GPU: what is taken and kept is told by a cache that only holds bytes."""
    record, _ = engine_of(bundle)

    class Cache:
        def __init__(self):
            self.taken = None

        def deserialize(self, content):
            self.taken = content
            return True

        def serialize(self):
            return b"compiled here"

    class Config:
        def __init__(self):
            self.cache = Cache()

        def create_runtime_cache(self):
            return self.cache

        def set_runtime_cache(self, cache):
            return cache is self.cache

    def attach(trust):
        config, kernels = Config(), KernelCache(bundle, record, trust)
        kernels.attach(config)
        return config.cache.taken, kernels

    bundle.write_cache(runtime_cache_name(record), b"somebody's kernels")
    assert attach(EngineTrust(elsewhere=True))[0] == b"somebody's kernels"
    taken, kernels = attach(EngineTrust())
    assert taken is None
    kernels.save()
    assert bundle.read_cache(runtime_cache_name(record)) == b"compiled here"
    assert attach(EngineTrust())[0] == b"compiled here"


def test_python_names_the_trust(bundle):
    trust = sr_deploy.EngineTrust(elsewhere=True)
    assert sr_deploy.open_model(bundle.path, trust).trust == trust
    assert sr_deploy.open_model(bundle.path).trust == EngineTrust()
