"""
Open a page of `trl-segment inspect --html` in a headless Chromium: how long it takes, and a picture of it.

Times are by the clock, which other programs slow down; the processor time is that of the page's own thread.

    python benchmarks/trace_page.py trace.html
    python benchmarks/trace_page.py trace.html --picture docs/images/inspect.png --runs 0
"""

import argparse
import base64
import shutil
import statistics
from pathlib import Path

from selenium import webdriver


# When the page was opened is where its clock starts; two frames later what it drew is on the screen
_DRAWN = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))"
_MOVE = (
    "const start = performance.now(); for (let i = 0; i < 20; i++) { state.tau = 0.4 + i / 40; showSelection(); "
    "document.body.offsetHeight } return (performance.now() - start) / 20"
)
_SHADE = (
    "const done = arguments[0], start = performance.now(); document.getElementById('tokens').click(); "
    "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)))"
)
_SIZE = (
    "return [segments.reduce((sum, s) => sum + s.text.length, 0), segments.length, "
    "segments.reduce((sum, s) => sum + (s.token_values ?? []).length, 0)]"
)


def open_browser(width: int, height: int) -> webdriver.Chrome:
    """A headless Chromium with a window of this size, in pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={width},{height}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--runs", type=int, default=5, help="how often to open the page")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--size", type=int, nargs=2, default=(1360, 860), help="of the picture's window")
    parser.add_argument("--script", default="", help="JavaScript to run before the picture is taken")
    args = parser.parse_args()
    if not args.page.is_file():
        parser.error(f"there is no page at {args.page}: write one with `trl-segment inspect --html {args.page}`")

    drawn, busy, moved, shaded, size = [], [], [], [], None
    for _ in range(args.runs):
        browser = open_browser(1440, 960)
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.get(args.page.resolve().as_uri())
        drawn.append(browser.execute_async_script(_DRAWN))
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        busy.append(1000 * next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))
        size = browser.execute_script(_SIZE)
        moved.append(browser.execute_script(_MOVE))
        if size[2]:
            shaded.append(browser.execute_async_script(_SHADE))
        browser.quit()
    if size:
        print(f"{size[0]:,} characters, {size[1]:,} segments, {size[2]:,} tokens; median of {args.runs} (worst)")
        for label, times in (
            ("opened and drawn", drawn),
            ("  processor time", busy),
            ("tau moved", moved),
            ("tokens shaded", shaded),
        ):
            if times:
                print(f"  {label:<18}{statistics.median(times):7.0f} ms ({max(times):.0f})")
    if args.picture:
        browser = open_browser(*args.size)
        feature = {"name": "prefers-color-scheme", "value": args.scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        # Headless windows have no height of their own to trust
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": args.size[0], "height": args.size[1], "deviceScaleFactor": 1.5, "mobile": False},
        )
        browser.get(args.page.resolve().as_uri())
        browser.execute_script(args.script)
        browser.execute_async_script(_DRAWN)
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        args.picture.write_bytes(base64.b64decode(picture))
        browser.quit()
        print(f"Wrote {args.picture}")


if __name__ == "__main__":
    main()
