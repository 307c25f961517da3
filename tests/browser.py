"""A headless Chromium, where there is one."""

import shutil

import pytest


def start_browser():
    """
    A Chromium of 1440 by 960 pixels, driven by selenium; skips the test where it or its driver is not installed. Set
    the preferred colour scheme with `prefer_scheme`.
    """
    selenium = pytest.importorskip("selenium", reason="selenium, which drives the browser, is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program, driver = next(filter(None, programs), None), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver on the path to open the page with (apt install chromium-driver)")
    from selenium import webdriver

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # No sandbox: tests may run as root in a container, and open only their own pages
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1440,960"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def prefer_scheme(browser, scheme):
    """Let the browser prefer `"light"` or `"dark"`."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def console_errors(browser):
    """What the browser complained about since the last call: script errors, violations of the content policy."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
