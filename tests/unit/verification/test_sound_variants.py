"""What `export` makes is never accused, whatever it was asked for: scales, channels, I/O types, precisions, engines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.cli import main
from tests.unit.verification.conftest import SPECS

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "x1": ({"scale": 1}, {}),
    "x2": ({"scale": 2}, {}),
    "x4": ({"scale": 4}, {}),
    "gray": ({"channels": 1}, {}),
    "FP16 I/O": ({}, {"io_dtype": "fp16"}),
    "uint8 I/O": ({}, {"io_dtype": "uint8"}),
    "BF16": ({}, {"bf16": True}),
    "INT8": ({}, {"int8": True}),
    "no rewrite": ({}, {"rewrite": False}),
    "engines": ({}, {"backend": "tensorrt-rtx"}),
}
"""Name -> changes of the network, options of the export."""


@pytest.mark.slow
@pytest.mark.parametrize("network", SPECS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sound_bundle_is_verified(export_sound, capsys, variant, network):
    changes, options = VARIANTS[variant]
    arch = ArchSpec(**SPECS[network].model_dump() | changes)
    bundle = export_sound(network, arch=arch, fp16=True, **options)
    assert main(["verify", str(bundle.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "verified"
    assert [check["findings"] for check in document["checks"] if check["findings"] or check["not_checked"]] == []
    assert len(bundle.engines()) == (2 if variant == "engines" else 0)
