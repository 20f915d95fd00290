"""The certificate's page in a real browser: headless Chromium opens the file and drags."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bundle import parse_profile
from sr_deploy.deploy import export_bundle
from sr_deploy.export.spec import load_spec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    spec = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)
    folder = tmp_path_factory.mktemp("page")
    save_generator(folder / "little.safetensors", build_network(spec).state_dict(), spec)
    wanted = load_spec().with_options(fp16=True, profiles=(parse_profile("tile=1x16x16,1x32x32,1x64x64"),))
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
    assert browser.find_element("css selector", ".verdict").text == "verified"
    pictures = "return [...document.images].every(one => one.complete && one.naturalWidth > 0)"
    assert browser.execute_script(pictures)


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
    figure.find_element("css selector", "input[value=difference]").click()
    assert right.get_attribute("src") != before
    stored = figure.find_element("css selector", "[data-view=difference]").get_attribute("src")
    assert right.get_attribute("src") == stored
    assert figure.find_element("css selector", ".right-name").text.startswith("difference in 8 bit, times ")
