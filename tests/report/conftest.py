"""A browser as narrow as a phone."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver

PHONE = 400


@pytest.fixture
def phone() -> Iterator[webdriver.Chrome]:
    browser, driver = (shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver"))
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver (packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    size = {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield chrome
    chrome.quit()
