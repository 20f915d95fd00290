"""The certificate's page in a real browser: headless Chromium opens the file and drags."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import parse_profile
from sr_deploy.deploy import export_bundle
from sr_deploy.export.spec import load_spec
from sr_deploy.files import sha256_of
from sr_deploy.verification.verify import verify_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory, write_network) -> Path:
    spec = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)
    folder = tmp_path_factory.mktemp("page")
    write_network(folder / "little.safetensors", spec)
    # BF16 is off by whole 8-bit steps, so that there is something to see.
    wanted = load_spec().with_options(fp16=True, bf16=True, profiles=(parse_profile("tile=1x16x16,1x32x32,1x64x64"),))
    result = export_bundle(folder / "little.safetensors", wanted, folder / "bundle", "none")
    return result.bundle.path / "certificate.html"


@pytest.fixture
def slider(browser, page):
    browser.get(page.as_uri())
    return browser.find_element("css selector", ".slider")


def position(slider) -> int:
    return int(slider.get_attribute("aria-valuenow"))


def test_the_page_opens_without_network_or_errors(opened_alone, page):
    browser = opened_alone(page)
    assert browser.title == "Certificate: bundle"
    # Without BF16 instructions OpenVINO leaves that one out, and the verdict says so.
    assert browser.find_element("css selector", ".verdict").text in ("verified", "verified: graphs")
    assert browser.find_element("css selector", "table").text.startswith("file checks ran on PSNR 8-bit pictures\nok")
    pictures = "return [...document.images].every(one => one.complete && one.naturalWidth > 0)"
    assert browser.execute_script(pictures)


@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_is_wider_than_the_screen_or_taller_than_wide(browser, page, width):
    browser.set_window_size(width, 900)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    sizes = [one.size for one in browser.find_elements("css selector", ".slider")]
    assert sizes
    assert all(0 < size["width"] <= 322 and 0 < size["height"] <= 322 for size in sizes)
    first = browser.find_element("css selector", "table.stacks")
    assert first.size["width"] <= width
    browser.set_window_size(1200, 900)


def test_the_cause_stands_first_and_unfolds_its_consequences(opened_alone, page, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(page.parent, bundle, ignore=shutil.ignore_patterns("certificate.*"))
    graph = onnx.load(bundle / "model.fp32.onnx")
    tensor = next(one for one in graph.graph.initializer if one.name == "body.0.weight")
    weights = onnx.numpy_helper.to_array(tensor)[:, ::-1]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(weights), tensor.name))
    onnx.save(graph, bundle / "model.fp32.onnx")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["graphs"][0]["sha256"] = sha256_of(bundle / "model.fp32.onnx")
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    verify_model(bundle)
    browser = opened_alone(bundle / "certificate.html")
    assert browser.find_element("css selector", ".verdict").text == "NOT verified"
    (cause,) = browser.find_elements("css selector", ".cause")
    assert cause.text.startswith("model.fp32.onnx (weights)\ntensor 'body.0.weight'")
    assert "onnxruntime:fp32" not in cause.text
    cause.find_element("css selector", "summary").click()
    assert "model.fp32.onnx on onnxruntime:fp32" in cause.text
    assert "model.fp16.onnx (weights)" in cause.text


def test_the_handle_is_dragged(browser, slider):
    from selenium.webdriver import ActionChains

    assert position(slider) == 50
    width = slider.size["width"]
    mouse = ActionChains(browser)  # one object: it remembers where the pointer is and that its button is down
    mouse.move_to_element(slider).click_and_hold().move_by_offset(round(width * 0.3), 0).perform()
    assert abs(position(slider) - 80) <= 2
    mouse.move_by_offset(-round(width * 0.6), 0).perform()
    assert abs(position(slider) - 20) <= 2
    handle = slider.find_element("css selector", ".handle")
    assert abs((handle.rect["x"] - slider.rect["x"]) / width - 0.2) < 0.05
    mouse.release().move_by_offset(round(width * 0.3), 0).perform()  # released: it stays
    assert abs(position(slider) - 20) <= 2
    mouse.click_and_hold().move_by_offset(width, 0).release().perform()
    assert position(slider) == 100


def test_the_keyboard_moves_it_too(browser, slider):
    from selenium.webdriver.common.keys import Keys

    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert position(slider) == 40
    slider.send_keys(Keys.END, Keys.ARROW_RIGHT)
    assert position(slider) == 100
    slider.send_keys(Keys.HOME)
    assert position(slider) == 0


def test_the_difference_is_shown_on_demand(browser, slider):
    figure = slider.find_element("xpath", "./ancestor::figure")
    right = figure.find_element("css selector", ".right")
    before = right.get_attribute("src")
    figure.find_element("css selector", "input[value=v1]").click()
    assert right.get_attribute("src") != before
    stored = figure.find_element("css selector", "[data-view=v1]").get_attribute("src")
    assert right.get_attribute("src") == stored
    assert figure.find_element("css selector", ".right-name").text.startswith("difference in 8 bit, times ")
