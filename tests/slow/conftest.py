"""A headless Chromium for the tests of pages, and a folder of pictures for jobs."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="session")
def browser():
    selenium = pytest.importorskip("selenium", reason="selenium is not installed; run: pip install selenium")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver; on Debian: apt-get install chromium chromium-driver")
    assert selenium is not None
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    for chatter in ("--disable-background-networking", "--disable-component-update", "--disable-sync"):
        options.add_argument(chatter)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened_alone(browser):
    """Opens a page and fails if it asks the network for anything or logs an error."""

    def open_page(path):
        browser.get_log("performance")  # what earlier pages did
        browser.get(path.as_uri())
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
        sent = [line["message"] for line in browser.get_log("performance") if "requestWillBeSent" in line["message"]]
        assert sent
        assert not [message for message in sent if '"url":"http' in message]
        return browser

    return open_page


@pytest.fixture(scope="session")
def write_pictures():
    """Fills three subfolders with pieces of photographs, in four formats."""

    def write(folder, count, height, width):
        photographs = [read_image(path) for path in bundled_photographs().values()]
        chance = random.Random(1)
        for number in range(count):
            image = photographs[number % len(photographs)]
            top, left = chance.randrange(image.shape[0] - height), chance.randrange(image.shape[1] - width)
            piece = np.ascontiguousarray(image[top : top + height, left : left + width])
            suffix = (".png", ".jpg", ".webp", ".tif")[number % 4]
            write_image(folder / f"{number % 3}" / f"{number:02}{suffix}", piece)

    return write
