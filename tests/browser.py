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


def set_size(browser, width=None, height=None):
    """Give the page a size in pixels, that of a phone's screen too, which no window has; without one the window's."""
    if width is None:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def outside(browser):
    """Shown elements that reach over the right or the left edge of the page, whether it scrolls to them or not."""
    return browser.execute_script(
        """
        const width = document.documentElement.clientWidth;
        return [...document.querySelectorAll("body *")]
          .filter((e) => e.getClientRects().length && !e.closest(".visually-hidden, .skip"))
          .filter((e) => e.getBoundingClientRect().right > width + 0.5 || e.getBoundingClientRect().left < -0.5)
          .map((e) => `${e.tagName} ${e.id} ${e.getAttribute("class")}`)
        """
    )


def clipped(browser):
    """Shown elements whose text is wider than the room it is shown in, whether one can scroll in it or not."""
    return browser.execute_script(
        """
        return [...document.querySelectorAll("body *")]
          .filter((e) => e.getClientRects().length && !e.closest(".visually-hidden, .skip, svg"))
          .filter((e) => getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth)
          .map((e) => `${e.tagName} ${e.id} ${e.className}`)
        """
    )


def contrasts(browser):
    """
    Contrast of every shown text with what lies under it, as the accessibility guidelines (WCAG 2.2) define it, lowest
    first. Controls that are disabled are no text to read.
    """
    return browser.execute_script(
        """
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const paint = (colors) => {
          canvas.clearRect(0, 0, 1, 1);
          for (const color of colors) {
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
          }
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const luminance = (color) => {
          const [r, g, b] = color
            .map((value) => value / 255)
            .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const found = [];
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
          const element = texts.currentNode.parentElement;
          if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
          if (element.closest(".visually-hidden, .skip, :disabled, [aria-disabled], script, option")) continue;
          const under = [];
          for (let e = element; e; e = e.parentElement) under.unshift(getComputedStyle(e).backgroundColor);
          const style = getComputedStyle(element);
          const ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
          const [a, b] = [luminance(paint(under)), luminance(paint([...under, ink]))].sort((x, y) => y - x);
          const [text, markup] = [texts.currentNode.data.trim(), element.outerHTML];
          found.push([(a + 0.05) / (b + 0.05), text.slice(0, 40), markup.slice(0, 80)]);
        }
        return found.sort((x, y) => x[0] - y[0]);
        """
    )
