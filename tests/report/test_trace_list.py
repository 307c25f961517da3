"""The pages of a report as a whole: the list of traces, the pages it leads to, and what both are on two screens."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from browser import clipped, console_errors, contrasts, outside, prefer_scheme, set_size
from helpers import make_rows, tiny_model, tiny_tokenizer
from test_trace_page import HOSTILE, Page

from trl_segment import SelectionConfig, build_trace
from trl_segment.cli import main as cli
from trl_segment.evaluation.metrics import Estimate
from trl_segment.selection import select
from trl_segment.store import StoredAttribution


pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from trl_segment.report import dataset_page
from trl_segment.report import statistics as report_statistics
from trl_segment.report.definitions import DEFINITIONS
from trl_segment.report.figures import DARK, LIGHT, draw_figures
from trl_segment.report.statistics import collect_statistics
from trl_segment.report.trace_list import TracePages, page_address
from trl_segment.report.verdicts import describe_dataset, describe_reliability, reliability_of


PHONE, DESKTOP = (390, 844), (1440, 960)
CONFIG = SelectionConfig(tau=0.6, beta=0.7, min_direction=-0.6)
ROLES = ("useful", "verification", "a role whose name is longer than any axis has room for, and then some more")
SETTLED = {"l1": 1.2, "variation": 1.0, "halves_correlation": 0.99, "halves_agreement": 0.9, "completeness_gap": 0.1}


def make_trace(pieces, **columns):
    solution = (
        "".join(["Let us see.", *(f"\n\nWait, {piece}" for piece in pieces[1:])]) + "\n</think>\n\nSo \\boxed{4}"
    )
    trace = build_trace({"question": "What is 2 + 2?", "solution": solution, "answer": "4", **columns})
    assert len(trace.segments) == len(pieces)
    return trace


def make_row(trace, seed, **changes):
    draw = np.random.default_rng(seed)
    num_tokens = [max(len(text) // 4, 1) for text in trace.segment_texts]
    sum_abs = draw.exponential(size=len(num_tokens)) * np.sqrt(num_tokens)
    signed = sum_abs * draw.uniform(-1, 1, len(num_tokens))
    values = {"f_input": -0.5, "f_baseline": -9.0, "evaluations": 32, "stopped_by": "halves", **SETTLED, **changes}
    return StoredAttribution(trace.key, "n", None, num_tokens, sum_abs.tolist(), signed.tolist(), **values)


def make_rows_of_every_kind(count=30):
    """Rows as the report reads them: settled and not, unread, not measured, trained in full, not in the store."""
    kinds = [
        {},
        {"halves_correlation": 0.3},
        {"f_baseline": -0.6},
        {"l1": None, "completeness_gap": None, "stopped_by": None},
    ]
    rows = []
    for i in range(count):
        pieces = [f"step {step} of trace {i}, and some words more. " * (1 + (7 * step + i) % 5) for step in range(9)]
        pieces[4] = "a segment that goes on and on, with a word such as supercalifragilistic. " * 15
        trace = make_trace(pieces, question=f"What is {i}?")
        row, name = make_row(trace, i, **kinds[i % 4]), f"trace {i % 7}/{i}"
        if i % 10 == 8:
            row = StoredAttribution(trace.key, name, problem="the answer is empty")
        elif i % 10 == 9:
            row = None if i % 20 == 9 else StoredAttribution(trace.key, name, problem="no reasoning")
        rows.append((name, trace, row, [ROLES[step % 3] for step in range(9)]))
    return rows


def write(folder, rows, wanted=range(100), title="a dataset"):
    pages = TracePages(folder, wanted, CONFIG, {"weights": "abc"})
    statistics = collect_statistics(pages.watch(rows), CONFIG)
    dataset_page.write_report(statistics, folder, title, {"weights": "abc"}, pages.written)
    return statistics, pages


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures take seconds to draw: those of the module's one report are enough."""
    monkeypatch.setattr(dataset_page, "draw_figures", lambda *_: {})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write(folder, make_rows_of_every_kind())
    return folder


def links(page):
    return [
        attributes["href"] for tag, attributes in page.tags if tag == "a" and "button" in attributes.get("class", "")
    ]


def read(file):
    return Page(file.read_text(encoding="utf-8"))


# Files


def test_pages_are_linked_in_order_and_rows_without_a_page_are_passed_over(report):
    rows = make_rows_of_every_kind()
    numbers = [number for number, (_, _, row, _) in enumerate(rows) if row is not None]
    assert len(numbers) < len(rows)
    assert {file.name for file in (report / "traces").iterdir()} == {f"trace-{number}.html" for number in numbers}
    for place, number in enumerate(numbers):
        page = read(report / page_address(number))
        before, after = numbers[place - 1 : place], numbers[place + 1 : place + 2]
        assert links(page) == [
            *(f"trace-{other}.html" for other in before),
            "../index.html#traces",
            *(f"trace-{other}.html" for other in after),
        ]
        assert page.data["name"] == rows[number][0]
        titles = [attributes["title"] for tag, attributes in page.tags if attributes.get("rel") in ("prev", "next")]
        assert titles == [rows[other][0] for other in (*before, *after)]
    listed = read(report / "index.html").data
    addresses = [row[listed["columns"].index("page")] for row in listed["rows"]]
    assert addresses == [f"traces/trace-{i}.html" if i in numbers else None for i in range(len(rows))]


def test_the_list_says_what_python_selects(report):
    listed = read(report / "index.html").data
    for (name, _, row, _), values in zip(make_rows_of_every_kind(), listed["rows"], strict=True):
        entry = dict(zip(listed["columns"], values, strict=True))
        assert entry["name"] == name
        if row is None or row.problem is not None:
            assert entry["reason"] == ("not in the store" if row is None else row.problem)
            assert entry["kept_tokens"] is entry["strength"] is entry["reliability"] is None
            continue
        kept, tokens = select(row.segment_scores, CONFIG, row.key).kept, np.array(row.num_tokens)
        assert (entry["segments"], entry["kept_segments"]) == (9, kept.sum())
        assert (entry["tokens"], entry["kept_tokens"]) == (tokens.sum(), tokens[kept].sum())
        strength = np.array(row.sum_abs) / np.sqrt(tokens)
        assert entry["strength"] == pytest.approx(strength.mean(), rel=1e-4)
        held = np.cumsum(np.sort(strength)[::-1]) / strength.sum()
        assert entry["needed"] == pytest.approx((1 + np.flatnonzero(held >= 0.8)[0]) / 9, rel=1e-4)
        assert entry["gain"] == pytest.approx(row.f_input - row.f_baseline, rel=1e-4)
        assert entry["reliability"] == reliability_of(row)
        assert entry["reason"] is None


def test_pages_of_an_earlier_report_go_and_files_of_others_stay(tmp_path):
    rows = make_rows_of_every_kind(6)
    write(tmp_path, rows)
    for name in ("notes.html", "trace-a.html", "trace-1.html.bak"):
        (tmp_path / "traces" / name).write_text("mine")
    write(tmp_path, rows, wanted={2})
    assert {file.name for file in (tmp_path / "traces").iterdir()} == {
        "trace-2.html",
        "notes.html",
        "trace-a.html",
        "trace-1.html.bak",
    }
    assert links(read(tmp_path / page_address(2))) == ["../index.html#traces"]


def test_ten_thousand_rows_make_a_hundred_pages_and_a_list_of_all(tmp_path):
    from trl_segment.cli.data import spread_evenly
    from trl_segment.cli.report import ReportArguments

    trace = make_trace(["one", "two", "three"])
    row = make_row(trace, 0)
    rows = [(f"row {i}", trace, row, None) for i in range(10_000)]
    wanted = set(spread_evenly(ReportArguments().trace_pages, len(rows)))
    statistics, pages = write(tmp_path, rows, wanted)
    assert len(pages.written) == len(list((tmp_path / "traces").iterdir())) == 100
    assert {0, 9_999} <= pages.written
    assert max(np.diff(sorted(pages.written))) <= 102
    page = read(tmp_path / "index.html")
    assert len(page.data["rows"]) == 10_000
    (note,) = dataset_page.list_notes(statistics, 100)
    assert note.startswith("100 of 10,000 traces have a page of their own. --trace_pages N writes more")
    assert note in (tmp_path / "index.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert (tmp_path / "index.html").stat().st_size < 3e6


def test_what_the_list_leaves_out_is_said(monkeypatch):
    monkeypatch.setattr(report_statistics, "MOST_LISTED", 4)
    statistics = collect_statistics(make_rows_of_every_kind(10), CONFIG)
    assert len(statistics.listed) == 4
    assert statistics.traces == 8
    assert dataset_page.list_notes(statistics, 9) == [
        "The list has the first 4 of 10 traces; figures and numbers are of all."
    ]


def test_no_name_of_a_trace_is_a_name_of_a_file(tmp_path):
    names = ["../../up", "/etc/passwd", "a\x00b", "con", "x" * 400, *HOSTILE]
    trace = make_trace(["one", "two"])
    rows = [(name, trace, make_row(trace, 1), None) for name in names]
    write(tmp_path, rows)
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.html")}
    assert found == {"index.html", *(f"traces/trace-{i}.html" for i in range(len(names)))}


# Sentences


def test_the_sentence_on_a_trace():
    trace = make_trace(["one", "two"])
    assert describe_reliability(make_row(trace, 0)) == (
        "; its scores are settled: two halves of the nodes correlate to 0.99"
    )
    unread = make_row(trace, 0, f_baseline=-0.6)
    assert describe_reliability(unread) == (
        ", but its scores say nothing: the reasoning raises the answer's log-probability by 0.10 nats only"
    )
    worse = make_row(trace, 0, f_baseline=-0.1)
    assert describe_reliability(worse).endswith("the reasoning lowers the answer's log-probability by 0.40 nats")
    noisy = make_row(trace, 0, halves_correlation=0.85)
    assert not noisy.reliability.warnings
    assert describe_reliability(noisy).startswith(
        ", but its selection is partly chance: two halves of the nodes correlate to 0.85 and agree on 90%"
    )
    assert "3.5 times the change of F" in describe_reliability(make_row(trace, 0, l1=3.5, halves_correlation=0.5))
    none = make_row(trace, 0, l1=None)
    assert describe_reliability(none).startswith("; how exact its scores are is not measured")
    states = [reliability_of(row) for row in (make_row(trace, 0), unread, worse, noisy, none)]
    assert states == ["settled", "unread", "unread", "not settled", "not measured"]


def test_the_sentence_on_a_dataset():
    trace = make_trace(["one", "two"])

    def say(*kinds, skipped=0):
        rows = [(str(i), trace, make_row(trace, 0, **changes), None) for i, changes in enumerate(kinds)]
        rows += [("s", trace, StoredAttribution("k", "s", problem="no answer"), None)] * skipped
        return describe_dataset(collect_statistics(rows, CONFIG))

    settled, noisy, unread = {}, {"halves_correlation": 0.1}, {"f_baseline": -0.6}
    start = "The selection trains 100.0% of the reasoning tokens of "
    assert say(settled, settled) == (
        f"{start}2 traces; its scores are settled, and whether it beats random segments is not measured here."
    )
    assert say(*[settled] * 10, noisy).startswith(f"{start}11 traces; its scores are sound in all but 1 of them, and")
    assert say(settled, noisy) == f"{start}2 traces, but it is partly chance: the scores of 1 of them are not settled."
    assert say(settled, unread, unread).startswith(f"{start}3 traces, but its scores say little: in 2 of them")
    assert say(settled, skipped=2).startswith(f"{start}1 trace, but 2 others are trained in full, most often for this")
    measured = collect_statistics([("0", trace, make_row(trace, 0), None)], CONFIG)
    better, unknown = (SimpleNamespace(gain=Estimate(0.1, low, 0.2)) for low in (0.05, -0.01))
    measured.faithfulness = SimpleNamespace(judged=1, sufficiency=better, necessity=unknown)
    assert describe_dataset(measured) == (
        f"{start}1 trace; by sufficiency it is better than random, by necessity not told from random."
    )
    assert say(skipped=2) == "Nothing is selected: none of the 2 traces has scores."
    assert "cannot be measured with this scorer" in say({"l1": None})


# In the browser


@pytest.fixture
def show(browser):
    """Open a file on a screen of a size, in a scheme."""

    def show(file, size=DESKTOP, scheme="light"):
        set_size(browser, *size)
        prefer_scheme(browser, scheme)
        browser.get(file.as_uri())
        browser.execute_script("sessionStorage.clear()")
        return browser

    console_errors(browser)
    # The tabulator may have left the page of a test before this one
    browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield show
    assert console_errors(browser) == []
    set_size(browser)
    prefer_scheme(browser, "light")


SCREENS = pytest.mark.parametrize("scheme", ["light", "dark"]), pytest.mark.parametrize("size", [PHONE, DESKTOP])


def names_shown(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows td[data-label=trace]')].map((cell) => cell.textContent)"
    )


def test_the_list_sorts(show, report):
    browser = show(report / "index.html")
    data = read(report / "index.html").data
    entries = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    assert names_shown(browser) == [entry["name"] for entry in entries[:12]]
    browser.find_element("id", "more").click()
    assert names_shown(browser) == [entry["name"] for entry in entries]
    headings = {button.text: button for button in browser.find_elements("css selector", "#headings button")}
    for entry in entries:
        entry["kept"] = entry["kept_tokens"] and entry["kept_tokens"] / entry["tokens"]
    for heading, column in (("kept", "kept"), ("strength", "strength"), ("80 % in", "needed"), ("gain", "gain")):
        known = [entry for entry in entries if entry[column] is not None]
        unknown = [entry["name"] for entry in entries if entry[column] is None]
        for sign, direction in ((-1, "descending"), (1, "ascending")):
            headings[heading].click()
            browser.find_element("id", "more").click()
            ordered = sorted(known, key=lambda entry: (sign * entry[column], entry["number"]))
            # What is not known stands last in both directions
            assert names_shown(browser) == [*(entry["name"] for entry in ordered), *unknown]
            sorted_by = browser.find_elements("css selector", f"#headings th[aria-sort={direction}]")
            assert [th.text.rstrip(" ↑↓") for th in sorted_by] == [heading]
    headings["trace"].click()
    assert names_shown(browser) == sorted(entry["name"] for entry in entries)[:12]


def fill(browser, name, value):
    browser.execute_script(
        "const control = byId('filters').elements[arguments[0]]; control.value = arguments[1];"
        "control.dispatchEvent(new Event('input', { bubbles: true }))",
        name,
        value,
    )


def test_the_list_filters_and_the_way_back_finds_it_filtered(show, report):
    browser = show(report / "index.html")
    data = read(report / "index.html").data
    entries = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]

    def expect(wanted, number=None):
        names = [entry["name"] for entry in entries if wanted(entry)]
        assert 0 < len(names) < len(entries)
        assert names_shown(browser) == names[:12]
        status = browser.find_element("id", "shown").text
        assert status.startswith(f"{len(names)} of 30 traces match")
        return names

    field = browser.find_element("name", "name")
    field.send_keys("TRACE 3/")
    expect(lambda entry: "trace 3/" in entry["name"])
    browser.find_element("css selector", "#filters button[type=reset]").click()
    assert len(names_shown(browser)) == 12
    shares = [100 * entry["kept_tokens"] / entry["tokens"] for entry in entries if entry["tokens"]]
    low, high = np.quantile(shares, [0.3, 0.7]).round(1).tolist()
    fill(browser, "kept_from", str(low))
    fill(browser, "kept_to", str(high))
    expect(lambda entry: entry["tokens"] and low <= 100 * entry["kept_tokens"] / entry["tokens"] <= high)
    fill(browser, "kept_from", "")
    fill(browser, "kept_to", "")
    least = float(np.median([entry["strength"] for entry in entries if entry["strength"]]).round(3))
    fill(browser, "strength_from", str(least))
    expect(lambda entry: entry["strength"] is not None and entry["strength"] >= least)
    fill(browser, "strength_from", "")
    for state in ("settled", "not settled", "unread", "not measured"):
        fill(browser, "reliability", state)
        expect(lambda entry: entry["reliability"] == state)  # noqa: B023
    fill(browser, "reliability", "")
    choices = {
        re.sub(r" \(\d+\)$", "", option.text): option.get_attribute("value")
        for option in browser.find_elements("css selector", "[name=reason] option")
    }
    assert set(choices) == {"any", "not skipped", "skipped", "the answer is empty", "no reasoning", "not in the store"}
    for reason in ("the answer is empty", "no reasoning", "not in the store"):
        fill(browser, "reason", choices[reason])
        expect(lambda entry: entry["reason"] == reason)  # noqa: B023
    fill(browser, "reason", choices["skipped"])
    expect(lambda entry: entry["reason"] is not None)
    fill(browser, "reason", choices["not skipped"])
    expect(lambda entry: entry["reason"] is None)
    fill(browser, "reliability", "unread")
    fill(browser, "sort", "strength")
    browser.execute_script("byId('filters').elements.descending.click()")
    before = names_shown(browser)
    assert 1 < len(before) < 12
    browser.find_element("css selector", "#rows a").click()
    assert browser.find_element("tag name", "h1").text == before[0]
    browser.back()
    assert names_shown(browser) == before


def test_next_and_previous(show, report):
    from selenium.webdriver.common.keys import Keys

    rows = make_rows_of_every_kind()
    names = [name for name, _, row, _ in rows if row is not None]
    browser = show(report / "index.html")
    browser.find_element("css selector", "#rows a").click()
    seen = [browser.find_element("tag name", "h1").text]
    while following := browser.find_elements("id", "next"):
        # By hand and by key in turn
        if len(seen) % 2:
            following[0].click()
        else:
            browser.find_element("tag name", "body").send_keys(Keys.ARROW_RIGHT)
        seen.append(browser.find_element("tag name", "h1").text)
    assert seen == names
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_LEFT)
    assert browser.find_element("tag name", "h1").text == names[-2]
    # In a field the arrow moves the number, not the reader
    browser.find_element("id", "tau").send_keys(Keys.ARROW_LEFT)
    assert browser.find_element("tag name", "h1").text == names[-2]
    browser.find_element("id", "list").click()
    assert browser.current_url.endswith("index.html#traces")


def test_a_theme_goes_along(show, report):
    browser = show(report / page_address(0))

    def brightness():
        color = browser.find_element("tag name", "body").value_of_css_property("background-color")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    assert brightness() > 600
    for _ in range(2):
        browser.find_element("id", "theme").click()
    assert brightness() < 150
    browser.find_element("id", "next").click()
    assert brightness() < 150
    browser.find_element("id", "list").click()
    assert brightness() < 150
    figure = browser.find_element("css selector", "figure img")
    dark = figure.get_property("currentSrc")
    browser.find_element("id", "theme").click()
    prefer_scheme(browser, "light")
    assert brightness() > 600
    assert figure.get_property("currentSrc") != dark


@pytest.mark.parametrize("page", ["index.html", page_address(0)])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_definitions_appear_on_hover_and_on_focus(show, report, page, size):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.keys import Keys

    browser = show(report / page, size)
    browser.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
    shown = browser.find_element("id", "definition")

    def point_at_nothing():
        actions = ActionBuilder(browser, duration=0)
        actions.pointer_action.move_to_location(1, 1)
        actions.perform()

    terms = browser.find_elements("css selector", "[data-term]")
    assert {term.get_attribute("data-term") for term in terms} <= set(DEFINITIONS)
    # The notes beside the segments are told by the legend, once, to whoever uses the keyboard
    focusable = [term for term in terms if term.get_property("tabIndex") >= 0 and term.is_displayed()]
    assert len(focusable) >= 12
    for term in focusable:
        assert term.get_attribute("aria-describedby") == f"definition-{term.get_attribute('data-term')}"
        definition = DEFINITIONS[term.get_attribute("data-term")]
        assert not shown.is_displayed()
        browser.execute_script("arguments[0].focus()", term)
        assert shown.text == definition
        box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", shown)
        assert box["left"] >= 0
        assert box["right"] <= size[0]
        assert box["top"] >= 0
        assert box["bottom"] <= size[1]
        term.send_keys(Keys.ESCAPE)
        assert not shown.is_displayed()
        browser.execute_script("arguments[0].blur()", term)
        ActionChains(browser, duration=0).move_to_element(term).perform()
        assert shown.text == definition
        term.send_keys(Keys.ESCAPE)
        browser.execute_script("arguments[0].blur()", term)
        point_at_nothing()
    # The tabulator reaches them
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    reached = set()
    for _ in range(40):
        ActionChains(browser, duration=0).send_keys(Keys.TAB).perform()
        if name := browser.switch_to.active_element.get_attribute("data-term"):
            reached.add(name)
            assert shown.text == DEFINITIONS[name]
    assert len(reached) >= 5


@SCREENS[0]
@SCREENS[1]
@pytest.mark.parametrize("page", ["index.html", page_address(0), page_address(8)])
def test_nothing_overflows_nothing_is_cut_and_everything_can_be_read(show, report, page, size, scheme):
    browser = show(report / page, size, scheme)
    browser.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert outside(browser) == []
    # A long segment is folded, and the table shows where a segment begins
    assert [element for element in clipped(browser) if "folded" not in element and "opens" not in element] == []
    least = contrasts(browser)
    assert len(least) > 30 or page == page_address(8)
    assert least[0][0] >= 4.5, least[:5]


@SCREENS[0]
def test_shaded_tokens_can_be_read(show, tmp_path, scheme):
    from trl_segment.report.trace_page import render_trace_page

    trace = make_trace(["one", "two", "three"])
    starts = np.arange(0, trace.reasoning[1], 3)
    values = np.resize([-1.0, 1.0, -0.3, 0.3], len(starts))  # as deep as it gets on every segment
    page = render_trace_page("t", trace, make_row(trace, 0), CONFIG, token_attributions=(starts, values))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browser = show(tmp_path / "page.html", scheme=scheme)
    browser.find_element("id", "tokens").click()
    browser.execute_script("for (const e of document.querySelectorAll('.body')) e.style.transition = 'none'")
    least = contrasts(browser)
    assert sum("token" in markup for _, _, markup in least) > 10
    assert least[0][0] >= 4.5, least[:5]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_phone_shows_the_trace_on_its_first_screen_and_the_cards_two_by_two(show, report, number):
    browser = show(report / page_address(number), PHONE)
    width, height = PHONE
    top = browser.execute_script("return document.querySelector('.body').getBoundingClientRect().top")
    assert top < height - 150
    for file, fewest in ((report / page_address(number), 4), (report / "index.html", 6)):
        browser = show(file, PHONE)
        boxes = [card.rect for card in browser.find_elements("class name", "fact")]
        assert len(boxes) >= fewest
        assert len({box["x"] for box in boxes}) == 2
        assert [box["x"] < width / 2 for box in boxes] == [i % 2 == 0 for i in range(len(boxes))]
        assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] == boxes[3]["y"]
    # On a desktop they stand in a row
    browser = show(report / page_address(number))
    assert len({card.rect["y"] for card in browser.find_elements("class name", "fact")}) == 1


def test_the_verdict_follows_the_thresholds(show, report):
    from selenium.webdriver.common.keys import Keys

    _, _, row, _ = make_rows_of_every_kind()[0]
    browser = show(report / page_address(0))

    def expect(config):
        kept, tokens = select(row.segment_scores, config, row.key).kept, np.array(row.num_tokens)
        number = "every one" if kept.all() else str(kept.sum())
        assert browser.find_element("id", "verdict").text == (
            f"Trains {number} of 9 segments, {100 * tokens[kept].sum() / tokens.sum():.1f} % of the reasoning tokens; "
            "its scores are settled: two halves of the nodes correlate to 0.99."
        )

    expect(CONFIG)
    browser.find_element("id", "tau").send_keys(Keys.END)
    expect(replace(CONFIG, tau=1.0))
    browser.find_element("id", "keep-first").send_keys(Keys.BACKSPACE, "9")
    expect(replace(CONFIG, tau=1.0, keep_first=9))


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_long_segments_fold(show, report, size):
    browser = show(report / page_address(0), size)
    _, trace, row, _ = make_rows_of_every_kind()[0]
    long = [i for i, tokens in enumerate(row.num_tokens) if tokens >= 200]
    assert long == [4]

    def heights():
        return [body.rect["height"] for body in browser.find_elements("class name", "body")]

    folded = heights()
    assert folded[4] < 200
    buttons = browser.find_elements("class name", "fold")
    assert [button.text for button in buttons] == [f"Show all {row.num_tokens[4]} tokens"]
    assert buttons[0].get_attribute("aria-expanded") == "false"
    # Its text is there all the same
    bodies = browser.execute_script("return [...document.querySelectorAll('.body')].map((body) => body.textContent)")
    assert bodies == trace.segment_texts
    buttons[0].click()
    assert heights()[4] > 2 * folded[4] or size == DESKTOP
    assert heights()[4] > folded[4]
    assert [a for i, a in enumerate(heights()) if i != 4] == [a for i, a in enumerate(folded) if i != 4]
    assert buttons[0].get_attribute("aria-expanded") == "true"
    assert browser.find_element("id", "unfold").text == "Fold all"
    browser.find_element("id", "unfold").click()
    assert heights() == folded
    browser.find_element("id", "unfold").click()
    assert heights()[4] > folded[4]
    browser.execute_script("activate(4, 'text')")
    browser.switch_to.active_element.send_keys("f")
    assert heights() == folded


def test_long_segments_of_a_trace_without_scores_fold_too(show, report):
    browser = show(report / page_address(8))
    assert "Trained in full: the answer is empty" in browser.find_element("id", "problem").text
    assert not browser.find_element("id", "verdict").is_displayed()
    assert [button.text for button in browser.find_elements("class name", "fold")] == ["Show the whole segment"]


def test_hostile_text_stays_text_in_the_list_and_on_the_way(show, tmp_path):
    trace = make_trace(["one", "two"])
    rows = [(text, trace, make_row(trace, 1), None) for text in HOSTILE]
    rows += [(text, trace, StoredAttribution("k", text, problem=text), None) for text in HOSTILE]
    write(tmp_path, rows, title=HOSTILE[1])
    browser = show(tmp_path / "index.html")
    browser.find_element("id", "more").click()

    def written_out(text):
        return re.sub(r"[\x00\x1b\u202e\u202c]", lambda match: f"U+{ord(match[0]):04X}", text)

    assert names_shown(browser) == [written_out(text) for text in (*HOSTILE, *HOSTILE)]
    choices = browser.execute_script(
        "return [...byId('filters').elements.reason.options].map((option) => option.textContent)"
    )
    assert choices[3:] == [f"{written_out(text)} (1)" for text in HOSTILE]
    fill(browser, "reason", "2")
    assert names_shown(browser) == [HOSTILE[2]]
    fill(browser, "reason", "")
    for number in range(2 * len(HOSTILE)):
        browser.get((tmp_path / page_address(number)).as_uri())
        assert browser.execute_script("return window.hacked") is None
    browser.get((tmp_path / "index.html").as_uri())
    assert browser.execute_script("return window.hacked") is None
    assert (
        browser.execute_script("return document.querySelectorAll('iframe, object, #rows img, #rows script').length")
        == 0
    )
    for attributes in (attributes for _, attributes in read(tmp_path / "index.html").tags):
        assert not {"style", "onclick", "onload", "onerror"} & set(attributes)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_labels_of_figures_are_inside_them_and_at_most_six(show, tmp_path, theme):
    config = replace(CONFIG, consistency_scale="absolute", keep_first=0, keep_last=0)
    statistics = collect_statistics(make_rows_of_every_kind(), config)
    assert statistics.segments.all()  # all four groups have a label
    for name, figure in draw_figures(statistics, theme, "svg").items():
        file = tmp_path / f"{name}.svg"
        file.write_bytes(figure)
        browser = show(file)
        left_out = browser.execute_script(
            """
            const frame = document.documentElement.getBoundingClientRect();
            const inside = ({ left, right, top, bottom }) =>
              left >= frame.left && right <= frame.right && top >= frame.top && bottom <= frame.bottom;
            return [...document.querySelectorAll("text")]
              .filter((text) => !inside(text.getBoundingClientRect()))
              .map((text) => text.textContent)
            """
        )
        assert left_out == [], name
        labels = browser.execute_script("return document.querySelectorAll('[id^=legend] text').length")
        assert labels <= 6, name


def test_colors_of_figures_stand_out_from_the_page():
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return np.dot([0.2126, 0.7152, 0.0722], parts)

    for theme, panel in ((LIGHT, "#ffffff"), (DARK, "#171b21")):
        for color, least in ((theme.ink, 7), (theme.muted, 4.5), (theme.accent, 3), *((c, 3) for c in theme.groups)):
            low, high = sorted((luminance(color), luminance(panel)))
            assert (high + 0.05) / (low + 0.05) >= least, (theme, color)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(6))]
    rows[3]["answer"] = ""
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    cli.main(
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} {rule}".split()
    )
    return folder


def run_report(folder, output, *options, dataset=True):
    named = ["--dataset_name", str(folder / "traces.jsonl")] if dataset else []
    store = ["--attributions", str(folder / "store")]
    cli.main(["report", *named, *store, "--output_dir", str(folder / output), *options])
    traces = folder / output / "traces"
    return sorted(file.name for file in traces.iterdir()) if traces.exists() else []


def test_the_command_writes_pages_with_its_thresholds(folder, capsys):
    assert run_report(folder, "out", "--tau", "0.4") == [f"trace-{i}.html" for i in range(6)]
    assert "trl-segment report:" not in capsys.readouterr().err
    page = read(folder / "out" / page_address(2))
    assert page.data["name"] == "sum-2"
    assert page.data["thresholds"]["tau"] == 0.4
    assert page.data["settings"]["rule"] == "midpoint"


def test_fewer_pages_than_traces_are_said_on_stderr_and_on_the_page(folder, capsys):
    assert run_report(folder, "few", "--trace_pages", "3") == ["trace-0.html", "trace-2.html", "trace-5.html"]
    note = "3 of 6 traces have a page of their own"
    assert note in capsys.readouterr().err
    assert note in (folder / "few" / "index.html").read_text(encoding="utf-8")
    assert run_report(folder, "few", "--trace_pages", "0") == []
    assert "0 of 6 traces have a page" in capsys.readouterr().err
    streamed = run_report(folder, "streamed", "--trace_pages", "2", "--dataset_streaming")
    assert streamed == ["trace-0.html", "trace-1.html"]


def test_the_store_alone_has_a_list_and_no_pages(folder, capsys, refused):
    run_report(folder, "alone")
    assert run_report(folder, "alone", dataset=False) == []
    assert "No trace has a page of its own, since the store holds no text" in capsys.readouterr().err
    data = read(folder / "alone" / "index.html").data
    assert {row[1] for row in data["rows"]} == {f"sum-{i}" for i in range(6)}
    with refused("--trace_pages"):
        run_report(folder, "alone", "--trace_pages", "2", dataset=False)
    with refused("`trace_pages` must be at least 0, but -1 was passed"):
        run_report(folder, "alone", "--trace_pages", "-1")
