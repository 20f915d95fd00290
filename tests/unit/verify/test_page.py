import base64
import html
import re

import numpy as np
import pytest

from sr_deploy.bundle import CertificateEntry, Check, FileRecord, Ledger, LedgerStage, Measurement, Shape, WorstPlace
from sr_deploy.imaging.codec import read_image
from sr_deploy.verify.lattice import Point
from sr_deploy.verify.margin import measure_margin
from sr_deploy.verify.page.render import PageContent, render_page
from sr_deploy.verify.worst import choose_crops, cut_crop

NOISE = np.random.default_rng(0).random((1, 3, 100, 120), np.float32)
POINT = Point(Shape(1, 25, 30), "noise")


def make_crop(y, x, amount=0.25, side=100):
    reference = NOISE[:, :, :side]
    candidate = reference.copy()
    candidate[0, 1, y, x] += amount
    place = WorstPlace(image=0, channel=1, y=y, x=x)
    lr = NOISE[:, :, : side // 4, :30]
    return cut_crop("onnxruntime:fp16", "m.onnx", POINT, place, amount, pictures=(lr, reference, candidate))


def make_entry(passed=True, psnr_db=70.0):
    measurement = Measurement(
        shape="1x25x30", content="noise", max_abs=0.01, psnr_db=psnr_db, changed_8bit=0.5, changed_8bit_more=0.125,
        mean_abs=0.001, ssim=0.75, worst=WorstPlace(image=0, channel=1, y=3, x=4),
    )  # fmt: skip
    return CertificateEntry(
        artefact=FileRecord(file="m<x>.onnx", sha256="a" * 64), precision="fp16", backend="onnxruntime:fp16",
        backend_version="1", machine="cpu", reference="torch:fp32", reference_sha256="b" * 64, measured_at="now",
        thresholds={"psnr_db": 55.0, "max_abs": 0.05}, measurements=(measurement,), left_out=("2x512x512: too large",),
        worst_max_abs=0.01, worst_psnr_db=psnr_db, passed=passed,
    )  # fmt: skip


def make_page(**changes):
    stages = [
        LedgerStage(name=name, runs="r", psnr_db=None, step_psnr_db=None, truth_psnr_db=30.0 - lost, lost_db=lost)
        for name, lost in (("torch:fp32", 0.0), ("ONNX FP16", 0.0321), ("8-bit file", -0.002))
    ]
    ledger = Ledger(
        precision="fp16", file="m.onnx", sha256="c" * 64, machine="cpu", inputs="1 photograph", measured_at="now",
        stages=tuple(stages),
    )  # fmt: skip
    check = Check(
        kind="weights", file="m.onnx", sha256=None, what="looked", findings=("tensor 'w' is off",), checked_at=""
    )
    content = {
        "title": "demo & co", "network": "compact", "failures": (),
        "artefacts": [FileRecord(file="f", sha256="d" * 64)],
        "entries": [make_entry()], "checks": [check], "ledgers": [ledger], "crops": [make_crop(50, 60)], "not_run": (),
    }  # fmt: skip
    return render_page(PageContent(**(content | changes)))


def test_the_page_needs_nothing_from_outside():
    page = make_page()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", markup)
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http" not in page
    assert "@import" not in page


def test_the_page_says_what_was_found():
    text = html.unescape(re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", make_page(), flags=re.DOTALL))
    text = " ".join(text.split())
    assert "demo & co verified" in text
    assert (
        "ok m<x>.onnx onnxruntime:fp16 1 70.0 dB needs 55.0 dB 1.0e-02 up to 5.0e-02 +14.0 dB 0.75000 50.000%" in text
    )
    assert "noise 1x25x30 row 3, column 4" in text
    assert "ONNX FP16 loses most, 0.0321 dB" in text
    assert "tensor 'w' is off" in text
    assert "d" * 64 in text
    assert "2x512x512: too large" in text
    failed = make_page(failures=["m.onnx on onnxruntime:fp16"], entries=[make_entry(passed=False)])
    assert "NOT verified" in failed
    assert "m.onnx on onnxruntime:fp16" in failed


def test_crops_are_cut_around_the_worst_place_and_moved_inwards_at_borders(tmp_path):
    crop = make_crop(50, 60)
    assert (crop.top, crop.left, crop.reference.shape) == (18, 28, (64, 64, 3))
    changed = np.argwhere(crop.reference != crop.candidate)
    assert changed.tolist() == [[32, 32, 1]]
    corner = make_crop(99, 119)
    assert (corner.top, corner.left) == (36, 56)
    assert np.argwhere(corner.reference != corner.candidate).tolist() == [[63, 63, 1]]
    page = make_page(crops=[crop])
    pictures = re.findall(r'class="(right|left)"[^>]*src="data:image/png;base64,([^"]+)"', page)
    for (side, encoded), expected in zip(pictures, (crop.candidate, crop.reference), strict=True):
        (tmp_path / f"{side}.png").write_bytes(base64.b64decode(encoded))
        assert np.array_equal(read_image(tmp_path / f"{side}.png"), expected)


def test_strips_are_shown_only_where_there_is_nothing_else():
    strip, square = make_crop(2, 60, amount=0.5, side=8), make_crop(50, 60)
    assert choose_crops([strip, square]) == [square]
    assert choose_crops([strip]) == [strip]


def test_the_margin_is_that_of_the_worst_input():
    assert measure_margin(make_entry()) == pytest.approx(20 * np.log10(5))
    assert measure_margin(make_entry(psnr_db=50.0)) == -5.0
