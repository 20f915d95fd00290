"""A little network that was really trained: INT8 of random weights would prove nothing about pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.export.int8.calibration_images import CropShape, cut_crops, find_calibration_images
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.onnx_export import export_network_to_onnx

TRAINED = ArchSpec(architecture="compact", scale=2, features=12, blocks=3)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and FP32 graph of a compact network after 150 steps on the bundled photographs."""
    torch.manual_seed(3)
    network = build_network(TRAINED)
    paths = find_calibration_images(None).calibration
    crops = list(cut_crops(paths, 24, CropShape(32, 2, 3, 5), 9))
    lr = torch.from_numpy(np.concatenate([crop.network_input for crop in crops]))
    hr = torch.from_numpy(np.stack([crop.hr for crop in crops])).permute(0, 3, 1, 2).float() / 255
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for step in range(150):
        pick = slice(step % 3 * 8, step % 3 * 8 + 8)
        optimizer.zero_grad()
        torch.nn.functional.l1_loss(network(lr[pick]), hr[pick]).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("trained")
    checkpoint, graph = folder / "little.safetensors", folder / "model.fp32.onnx"
    save_generator(checkpoint, network.state_dict(), TRAINED)
    export_network_to_onnx(network.eval(), TRAINED, graph, "5" * 64)
    return checkpoint, graph


@pytest.fixture(scope="session")
def quick() -> Int8Options:
    """Settings that take a second."""
    return Int8Options(
        crops=6, crop_size=24, search_crops=3, gate_crops=4, curve_points=3, learn_steps=6, learn_size=16
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
