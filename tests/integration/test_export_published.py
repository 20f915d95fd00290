"""The published compact network of Real-ESRGAN, as a user would export it; needs the file itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sr_deploy.backends import builders
from sr_deploy.cli import main

DATA = os.environ.get("SR_DEPLOY_DATA")
CHECKPOINT = Path(DATA or ".") / "checkpoints" / "realesr-animevideov3.pth"


@pytest.mark.slow
@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="SR_DEPLOY_DATA names no folder with the published checkpoint")
def test_published_network_agrees_to_1e_5_and_55_db(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(CHECKPOINT), "--fp16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"] == "deployments/realesr-animevideov3"
    assert document["manifest"]["arch"]["blocks"] == 16
    fp32 = [entry for entry in document["certificate"] if entry["precision"] == "fp32"]
    fp16 = [entry for entry in document["certificate"] if entry["precision"] == "fp16"]
    assert fp32
    assert max(entry["worst_max_abs"] for entry in fp32) <= 1e-5
    assert fp16
    assert min(entry["worst_psnr_db"] for entry in fp16) > 55
    if builders.sdk_version("tensorrt-rtx") is not None:
        # 18 of the network, and the one that the rewritten graph has in place of the nearest enlargement.
        assert document["manifest"]["rewrites"] == ["nearest_skip"]
        assert {engine["convolution_precisions"].get("HALF", 0) for engine in document["engines"]} == {0, 19}
