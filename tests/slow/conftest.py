"""A headless Chromium for the tests of pages."""

from __future__ import annotations

import shutil

import pytest

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
