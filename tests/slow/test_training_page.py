"""A training run's page in a real browser: frames of the film, the slider's choices, the width of the screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sr_deploy.config import validate_config
from sr_deploy.imaging.codec import write_image
from sr_deploy.train.loop import train
from sr_deploy.train.page.render import write_training_page
from sr_deploy.train.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (360, 380, 3), np.uint8)
        write_image(folder / "pictures" / f"{number}.png", image)
    document = {
        "name": "tiny", "scale": 2, "network": {"architecture": "compact", "features": 8, "blocks": 1},
        "data": {"folder": str(folder / "pictures"), "validation_folder": str(folder / "pictures"), "patch_size": 32,
                 "batch": 2},
        "optimizer": {"learning_rate": 1e-3}, "precision": {"autocast": "off", "channels_last": False},
        "run": {"steps": 12, "log_every": 2, "validate_every": 4, "preview_every": 1, "checkpoint_every": 4},
    }  # fmt: skip
    train(validate_config(document, Recipe, "test"), folder / "run")
    write_training_page(folder / "run", folder / "page.html")
    return folder / "page.html"


def test_the_page_opens_without_network_or_errors(opened_alone, page):
    browser = opened_alone(page)
    assert browser.title == "Run: run"
    assert browser.execute_script(
        "return [...document.images].every(one => one.complete && one.naturalWidth > 0)",
    )


@pytest.mark.parametrize("width", [1200, 500])
def test_nothing_is_wider_than_the_screen(browser, page, width):
    browser.set_window_size(width, 900)
    browser.get(page.as_uri())
    browser.find_element("css selector", "summary").click()
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    strip = browser.find_element("css selector", ".strip")
    assert browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", strip)
    browser.set_window_size(1200, 900)


def test_the_frame_that_is_chosen_is_shown_large(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    frames = browser.find_elements("css selector", ".strip button")
    large = browser.find_element("css selector", ".frame img")
    assert len(frames) == 12
    last = large.get_attribute("src")
    frames[10].click()
    assert large.get_attribute("src") == frames[10].find_element("css selector", "img").get_attribute("src") != last
    assert browser.find_element("css selector", ".frame figcaption").text == "step 11"
    frames[10].send_keys(Keys.HOME)
    assert browser.switch_to.active_element == frames[0]
    frames[0].send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element("css selector", ".frame figcaption").text == "step 2"
    assert [frame.get_attribute("aria-pressed") for frame in frames] == ["false", "true", *["false"] * 10]


def test_the_right_side_shows_what_is_chosen_and_the_first_again(browser, page):
    browser.get(page.as_uri())
    figure = browser.find_element("css selector", ".figures figure")
    right = figure.find_element("css selector", ".right")
    first = right.get_attribute("src")
    choices = figure.find_elements("css selector", "input[type=radio]")
    for choice in choices[1:]:
        choice.click()
        assert right.get_attribute("src") != first
        assert right.get_attribute("alt") == choice.get_attribute("data-name")
        assert figure.find_element("css selector", ".right-name").text == choice.get_attribute("data-name")
    choices[0].click()
    assert right.get_attribute("src") == first
