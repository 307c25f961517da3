"""The page of one trace: what is in it, and what a browser makes of it."""

import base64
import hashlib
import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import console_errors, prefer_scheme
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment import AttributionConfig, AttributionStore, SelectionConfig, attribute_traces, build_trace
from trl_segment.attribution import attribute_tokens, attribution_settings
from trl_segment.cli import main as cli
from trl_segment.selection import SELECTIONS, SegmentScores, select
from trl_segment.store import StoredAttribution


pytest.importorskip("jinja2")

from trl_segment.report.trace_page import PAGE_THRESHOLDS, render_trace_page


HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!-- <script>",
    "]]> & &lt;b&gt; \" ' ` </textarea></title></style>",
    "{{ 7 * 7 }} {% raw %} ${window.hacked = 1}",
    "line\u2028paragraph\u2029nul\x00 escape\x1b[31m override\u202etxet\u202c",
    "עברית מימין לשמאל, العربية, 中文, ไทย, 🙂👩\u200d🔬",
    "\\frac{1}{ \\boxed{\\text{broken $ and \\left( no end",
    "javascript:window.hacked=1 <a href='javascript:window.hacked=1'>x</a>",
]


class Page(HTMLParser):
    """Scripts, styles and policy of a page, as an HTML parser that is not the browser's reads them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.inside, self.parts, self.policy, self.tags, self.title = None, [], None, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag in ("script", "style"):
            self.inside = (tag, attributes.get("type"))
            self.parts.append([self.inside, ""])
        elif tag == "title":
            self.inside = ("title", None)
        elif attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == ("title", None):
            self.title += data
        elif self.inside is not None:
            self.parts[-1][1] += data

    @property
    def data(self):
        (data,) = [json.loads(text) for kind, text in self.parts if kind == ("script", "application/json")]
        return data


def make_trace(pieces, answer="4", question="?"):
    solution = "\n\nWait, ".join(pieces) + "\n</think>\n\nSo \\boxed{4}"
    trace = build_trace({"question": question, "solution": solution, "answer": answer})
    assert len(trace.segments) == len(pieces)
    return trace


def make_row(trace, seed=0, **changes):
    draw = np.random.default_rng(seed)
    count = len(trace.segments)
    sum_abs = draw.exponential(size=count)
    numbers = {
        "num_tokens": draw.integers(1, 90, count).tolist(),
        "sum_abs": sum_abs.tolist(),
        "sum_signed": (sum_abs * draw.uniform(-1, 1, count)).tolist(),
    }
    return StoredAttribution("key", "name", None, **{**numbers, **changes}, f_input=-0.5, f_baseline=-9.0)


@pytest.fixture
def show(browser, tmp_path):
    """Write a page and open it from disk."""

    def show(page):
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8", errors="replace", newline="\n")
        browser.get(file.as_uri())
        return browser

    prefer_scheme(browser, "light")
    console_errors(browser)
    yield show
    assert console_errors(browser) == []


def texts(browser):
    return browser.execute_script("return [...document.querySelectorAll('.body')].map((b) => b.textContent)")


def verdicts_shown(browser):
    return browser.execute_script("return segments.map((_, i) => views[i].verdict)")


def test_nothing_is_loaded_and_only_the_pages_own_script_may_run():
    trace = make_trace(HOSTILE)
    page = Page(render_trace_page("t", trace, make_row(trace), SelectionConfig()))
    code = dict(page.parts)
    assert set(code) == {("style", None), ("script", "application/json"), ("script", None)}
    for kind, directive in ((("script", None), "script-src"), (("style", None), "style-src")):
        digest = base64.b64encode(hashlib.sha256(code[kind].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy
    assert "unsafe" not in page.policy
    for _, attributes in page.tags:
        assert not {"src", "style", "onclick", "onload", "onerror"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", code["script", None] + code["style", None])


def test_data_survives_and_hostile_text_stays_text():
    name = "</title><script>alert(1)</script>"
    trace = make_trace(HOSTILE, answer="</script>", question=HOSTILE[1])
    row = make_row(trace, stopped_by="<b>")
    page = Page(
        render_trace_page(name, trace, row, SelectionConfig(tau=0.25), {"weights": "</script>"}, None, HOSTILE)
    )
    assert page.title == f"{name} · trl-segment"
    assert [segment["text"] for segment in page.data["segments"]] == trace.segment_texts
    assert [segment["role"] for segment in page.data["segments"]] == HOSTILE
    assert page.data["answer"] == "</script>"
    assert page.data["settings"] == {"weights": "</script>"}
    assert page.data["thresholds"]["tau"] == 0.25
    assert HOSTILE[1] in page.data["prompt"][0]["text"]
    # The numbers to the last bit
    assert [segment["sum_signed"] for segment in page.data["segments"]] == row.sum_signed


def test_numbers_that_json_lacks_become_null():
    trace = make_trace(["a", "b"])
    row = make_row(trace, defect=float("nan"), completeness_gap=float("inf"))
    scores = Page(render_trace_page("t", trace, row, SelectionConfig())).data["scores"]
    assert scores["defect"] is None
    assert scores["completeness_gap"] is None


def test_the_page_knows_every_threshold():
    """If a selection rule gets another option, report/templates/selection.js must learn it."""
    without_effect_on_one_trace = {"transition"}
    assert {field.name for field in fields(SelectionConfig)} == {*PAGE_THRESHOLDS, *without_effect_on_one_trace}


def test_tokens_of_a_real_attribution_join_to_the_text_and_add_up(tmp_path):
    tokenizer, config = tiny_tokenizer(), AttributionConfig(attribution_rule="midpoint", attribution_evaluations=2)
    model = tiny_model(tokenizer)
    row = make_rows(3)[2]
    # More than one UTF-16 unit and more than one token to a character
    row["solution"] = row["solution"].replace("I need", "🙂 中文 I need", 1)
    trace = build_trace(row)
    store = AttributionStore(tmp_path, attribution_settings(model, tokenizer, config))
    attribute_traces([("t", trace)], model, tokenizer, config, store, progress=False)
    starts, values, _ = attribute_tokens(trace, model, tokenizer, config, store)
    page = Page(render_trace_page("t", trace, store[trace.key], SelectionConfig(), None, (starts, values)))
    straddled = 0
    for index, segment in enumerate(page.data["segments"]):
        assert sum(segment["token_lengths"]) == len(segment["text"].encode("utf-16-le")) // 2
        # A token that crosses a border counts where it begins, and its rest nothing
        if trace.segments[index][0] not in starts:
            straddled += index > 0
            assert segment["token_values"][0] == 0
        assert sum(segment["token_values"]) == pytest.approx(store[trace.key].sum_signed[index], abs=1e-9)
    assert straddled  # else the test says nothing about segments that start inside a token
    assert sum(sum(segment["token_values"]) != 0 for segment in page.data["segments"]) == len(trace.segments)


# In the browser


def test_selection_is_pythons_on_random_cases(show):
    trace = make_trace(["a", "b"])
    browser = show(render_trace_page("t", trace, make_row(trace), SelectionConfig()))
    draw = np.random.default_rng(0)
    cases, expected = [], []
    for case in range(1500):
        count = int(draw.integers(0, 40))
        num_tokens = draw.integers(0, 30, count)
        # Ties, zeros and values on the thresholds are where implementations part
        sum_abs = draw.integers(0, 6, count) / 10 if case % 2 else draw.exponential(size=count)
        sum_signed = sum_abs * (draw.integers(-10, 11, count) / 10 if case % 3 else draw.uniform(-1, 1, count))
        if case % 50 == 0:
            sum_abs, sum_signed = 0 * sum_abs, 0 * sum_signed
        config = SelectionConfig(
            tau=float(draw.integers(1, 21) / 20) if case % 2 else float(draw.uniform(0.001, 1)),
            beta=float(draw.integers(0, 11) / 10),
            keep_first=int(draw.integers(0, 4)),
            keep_last=int(draw.integers(0, 4)),
            min_tokens_to_mask=int(draw.choice([0, 0, 0, 100])),
            selection=str(draw.choice(["attribution", "threshold", "all"], p=[0.45, 0.45, 0.1])),
            min_strength=float(draw.integers(0, 6) / 10),
            consistency_scale=str(draw.choice(["absolute", "chance", "rank"])),
            min_direction=float(draw.integers(-10, 11) / 10),
            min_gain=None if case % 4 else 0.5,
        )
        gain = float(draw.choice([0.4, 0.5, 0.6]))
        names = ("num_tokens", "sum_abs", "sum_signed")
        numbers = zip(num_tokens.tolist(), sum_abs.tolist(), sum_signed.tolist(), strict=True)
        thresholds = {name: getattr(config, name) for name in PAGE_THRESHOLDS}
        cases.append([[dict(zip(names, values, strict=True)) for values in numbers], thresholds, gain])
        if case % 5 == 0:
            scores = SegmentScores(num_tokens, scores=sum_abs, gain=gain)
            cases[-1][0] = [
                {"num_tokens": tokens, "score": score}
                for tokens, score in zip(num_tokens.tolist(), sum_abs.tolist(), strict=True)
            ]
        else:
            scores = SegmentScores(num_tokens, sum_abs, sum_signed, gain=gain)
        expected.append(list(select(scores, config).verdicts))
    # As JSON, as the page's own data: the driver would round numbers
    shown = browser.execute_script(
        "return JSON.parse(arguments[0]).map(([segments, config, gain]) => "
        "selectSegments(segments, config, gain).map(({ kept, verdict }) => [kept, verdict]))",
        json.dumps(cases),
    )
    assert [[verdict for _, verdict in case] for case in shown] == expected
    assert all(kept == verdict.startswith("kept") for case in shown for kept, verdict in case)
    assert len({verdict for case in expected for verdict in case}) == 5


def controls_enabled(browser):
    inputs = browser.find_elements("css selector", ".sliders input, .ends input, .ends button")
    assert len(inputs) == 8
    return [control.is_enabled() for control in inputs]


@pytest.mark.parametrize("kind", ["tokens", "whole segments"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_page_shows_every_selection_of_every_kind_of_scores(show, selection, kind):
    from selenium.webdriver.common.keys import Keys

    trace = make_trace([f"step {i}" for i in range(12)])
    row = make_row(trace, stopped_by="nodes")
    if kind == "whole segments":
        row = replace(row, scores=row.sum_abs, sum_abs=None, sum_signed=None, stopped_by=None)
    options = {"selection": selection, "tau": 0.6, "beta": 0.5, "min_strength": 0.4, "seed": 7}
    row.key = trace.key
    page = render_trace_page("t", trace, row, SelectionConfig(**options))
    browser = show(page)
    verdicts = list(select(row.segment_scores, SelectionConfig(**options), trace.key).verdicts)
    assert verdicts_shown(browser) == verdicts
    assert ("dropped, by chance" in verdicts) == (selection == "random")
    kept = sum(verdict.startswith("kept") for verdict in verdicts)
    assert (kept == 12) == (selection == "all")
    assert browser.find_element("id", "kept-segments").text == f"{kept} of 12"
    directed = kind == "tokens"
    label = browser.find_element("css selector", "article").get_attribute("aria-label")
    assert ("consistency" in label) == directed
    cells = [cell.text for cell in browser.find_elements("css selector", "#rows tr:first-child td")]
    assert (cells[2] == "–", cells[4] == "–") == (not directed, not directed)
    # A scorer without nodes has no baseline, and says what the answer is without the reasoning
    label = browser.find_element("id", "log-probability-label").text
    assert ("baseline" in label, "without reasoning" in label) == (directed, not directed)
    assert browser.find_element("id", "gap").text == "–"  # neither row has a gap
    gap = browser.find_element("css selector", ".fact:has(#gap) .label").text
    assert gap.startswith("completeness gap not known")
    command = browser.find_element("id", "command").text
    assert ("--selection" in command) == (selection != "attribution")
    assert ("--seed 7" in command) == (selection == "random")
    assert ("consistency" in browser.find_element("css selector", ".gutter").text) == directed
    bounds_on_direction = [False, False, True, True, False, False, True, False]
    assert controls_enabled(browser) == [
        selection != "random" and (directed or not bound) for bound in bounds_on_direction
    ]
    if selection != "random":
        browser.find_element("id", "keep-last").send_keys(Keys.BACKSPACE, "6")
        config = SelectionConfig(**options, keep_last=6)
        assert verdicts_shown(browser) == list(select(row.segment_scores, config).verdicts)


def test_hostile_text_is_shown_and_does_not_run(show):
    trace = make_trace(HOSTILE, answer=HOSTILE[2], question=HOSTILE[2])
    page = render_trace_page(
        HOSTILE[1], trace, make_row(trace, stopped_by=HOSTILE[2]), SelectionConfig(), {"a": HOSTILE[2]}, None, HOSTILE
    )
    browser = show(page)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img, script, iframe, main a').length") == 2

    def written_out(text):
        return re.sub(r"[\x00\x1b\u202e\u202c]", lambda match: f"U+{ord(match[0]):04X}", text)

    assert texts(browser) == [written_out(text) for text in trace.segment_texts]
    assert browser.title == f"{HOSTILE[1]} · trl-segment"
    hebrew = browser.find_element("id", "s8").find_element("class name", "body")
    assert hebrew.value_of_css_property("direction") == "ltr"  # it begins with "Wait,"
    only = make_trace([HOSTILE[7]])
    browser = show(render_trace_page("t", only, make_row(only), SelectionConfig()))
    assert browser.find_element("class name", "body").value_of_css_property("direction") == "rtl"


def test_the_policy_holds_even_if_markup_got_in(show):
    """What the first two lines of defence would let through, were they broken, the policy stops."""
    trace = make_trace(["a", "b"])
    page = render_trace_page("t", trace, make_row(trace), SelectionConfig())
    page = page.replace(
        "<noscript>", "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><noscript>"
    )
    browser = show(page)
    assert browser.execute_script("return window.hacked") is None
    stopped = browser.execute_script(
        "try { document.body.innerHTML = '<b>x</b>'; return false } catch (error) { return error.name }"
    )
    assert stopped == "TypeError"
    assert len(console_errors(browser)) >= 2  # the browser names what it refused


def test_moving_a_slider_selects_again(show):
    from selenium.webdriver.common.keys import Keys

    trace = make_trace([f"step {i}" for i in range(12)])
    row = make_row(trace)
    browser = show(render_trace_page("t", trace, row, SelectionConfig(tau=0.35, beta=0.5)))

    def expect(**config):
        verdicts = list(select(row.segment_scores, SelectionConfig(**config)).verdicts)
        assert verdicts_shown(browser) == verdicts
        kept = [verdict.startswith("kept") for verdict in verdicts]
        assert browser.execute_script(
            "return views.map(({ section, row, cell, dot }) => "
            "[section, row, cell, dot].map((part) => part.classList.contains('kept')))"
        ) == [[value] * 4 for value in kept]
        tokens = np.array(row.num_tokens)
        share = f"{tokens[kept].sum() / tokens.sum():.1%}".replace("%", " %")
        status = browser.find_element("id", "status").get_attribute("textContent")
        assert status == f"{sum(kept)} of 12 segments trained, {share} of the tokens"
        return verdicts

    seen = {tuple(expect(tau=0.35, beta=0.5))}
    browser.find_element("id", "tau").send_keys(Keys.END)
    seen.add(tuple(expect(tau=1.0, beta=0.5)))
    browser.find_element("id", "beta").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    seen.add(tuple(expect(tau=1.0, beta=0.01)))
    exact = browser.find_element("id", "beta-value")
    exact.send_keys(Keys.CONTROL + "a", Keys.NULL, "0.777")
    seen.add(tuple(expect(tau=1.0, beta=0.777)))
    browser.find_element("id", "keep-last").send_keys(Keys.BACKSPACE, "4")
    seen.add(tuple(expect(tau=1.0, beta=0.777, keep_last=4)))
    assert browser.find_element("id", "command").text == "--tau 1 --beta 0.777 --keep_first 1 --keep_last 4"
    exact.send_keys(Keys.CONTROL + "a", Keys.NULL, "7")  # no threshold: the last one stays
    expect(tau=1.0, beta=0.777, keep_last=4)
    exact.send_keys(Keys.TAB)
    assert exact.get_property("value") == "0.777"
    browser.find_element("id", "reset").click()
    expect(tau=0.35, beta=0.5)
    assert len(seen) == 5


def test_the_table_sorts_and_leads_to_the_text(show):
    from selenium.webdriver.common.keys import Keys

    trace = make_trace([f"step {i} " + "word " * 80 for i in range(30)])
    row = make_row(trace)
    browser = show(render_trace_page("t", trace, row, SelectionConfig(), roles=[f"role {i % 3}" for i in range(30)]))

    def order():
        return [int(link.text) - 1 for link in browser.find_elements("css selector", "#rows a")]

    strength = np.array(row.sum_abs) / np.sqrt(row.num_tokens)
    assert order() == list(range(30))
    headings = {button.text: button for button in browser.find_elements("css selector", "#headings button")}
    headings["strength"].click()
    assert order() == np.argsort(-strength, kind="stable").tolist()
    headings["strength"].click()
    assert order() == np.argsort(strength, kind="stable").tolist()
    assert [th.get_attribute("aria-sort") for th in browser.find_elements("css selector", "#headings th")].count(
        "ascending"
    ) == 1
    headings["role"].click()
    assert order() == sorted(range(30), key=lambda i: i % 3)
    headings["#"].click()

    def in_view(index):
        top = browser.execute_script(f"return document.getElementById('s{index}').getBoundingClientRect().top")
        return 0 <= top < browser.execute_script("return innerHeight")

    assert not in_view(20)
    browser.find_element("css selector", "#rows tr:nth-child(20) a").send_keys(Keys.ENTER)
    assert in_view(20)
    assert browser.switch_to.active_element.get_attribute("id") == "s20"
    page = browser.find_element("tag name", "body")
    page.send_keys("j")
    assert browser.switch_to.active_element.get_attribute("id") == "s21"
    page.send_keys("kk")
    assert browser.switch_to.active_element.get_attribute("id") == "s19"
    kept = [i for i, verdict in enumerate(verdicts_shown(browser)) if verdict.startswith("kept")]
    page.send_keys("n")
    assert browser.switch_to.active_element.get_attribute("id") == f"s{min(i for i in kept if i > 18) + 1}"
    # One stop of the tab key for the whole table, arrows inside
    assert browser.execute_script("return views.filter(({ link }) => link.tabIndex === 0).length") == 1
    browser.find_element("css selector", "#rows a[tabindex='0']").send_keys(Keys.ARROW_DOWN)
    assert browser.execute_script("return document.activeElement.closest('tr') !== null")


def test_controls_have_names_and_segments_say_their_verdict(show):
    trace = make_trace(["a", "b", "c"])
    browser = show(render_trace_page("t", trace, make_row(trace), SelectionConfig()))
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {}
    for node in nodes:
        named.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value", ""))
    for role in ("slider", "spinbutton", "button", "link", "article", "main", "complementary", "table"):
        assert named.get(role), role
        assert all(named[role]), (role, named[role])
    assert len(named["slider"]) == 2
    assert re.fullmatch(
        r"Segment 1, kept, always, [\d.]+ % of the strength, consistency [\d.]+, \d+ tokens", named["article"][0]
    )


def test_tokens_are_shaded_on_demand(show):
    trace = make_trace(["one two", "three"])
    starts = np.array([0, 3, 7, 20])  # "one", " two", "\n\nWait, three" from its middle, and a last token
    values = np.array([1.0, -0.5, 0.25, 0.0])
    page = render_trace_page("t", trace, make_row(trace), SelectionConfig(), token_attributions=(starts, values))
    browser = show(page)
    before = texts(browser)
    assert browser.find_elements("class name", "token") == []
    browser.find_element("id", "tokens").click()
    assert texts(browser) == before == trace.segment_texts
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.token')].map((token) => "
        "[token.textContent, Number(token.dataset.value), token.className])"
    )
    assert shown[:3] == [
        ["one", 1, "token plus"],
        [" two", -0.5, "token minus"],
        ["\n\nWait, three\n"[:13], 0.25, "token plus"],
    ]
    strong, weak = (
        browser.find_elements("class name", "token")[i].value_of_css_property("background-color") for i in (0, 2)
    )
    assert strong != weak
    browser.find_element("id", "tokens").click()
    assert (
        browser.find_elements("class name", "token")[0].value_of_css_property("background-color") == "rgba(0, 0, 0, 0)"
    )
    browser = show(render_trace_page("t", trace, make_row(trace), SelectionConfig()))
    assert not browser.find_element("id", "tokens").is_enabled()
    assert "--model_name_or_path" in browser.find_element("id", "tokens").get_attribute("title")


def test_light_and_dark(show):
    trace = make_trace(["a", "b", "c"])
    browser = show(render_trace_page("t", trace, make_row(trace), SelectionConfig()))

    def brightness():
        color = browser.find_element("tag name", "body").value_of_css_property("background-color")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    assert brightness() > 600
    prefer_scheme(browser, "dark")
    assert brightness() < 150
    browser.find_element("id", "theme").click()
    assert brightness() > 600
    browser.find_element("id", "theme").click()
    prefer_scheme(browser, "light")
    assert brightness() < 150


def test_stronger_segments_are_more_colourful_in_the_picture(show):
    import io

    from PIL import Image

    trace = make_trace(["weak", "strong", "dropped", "last"])
    row = make_row(trace, num_tokens=[1] * 4, sum_abs=[1.0, 9.0, 0.5, 5.0], sum_signed=[0.0] * 4)
    browser = show(render_trace_page("t", trace, row, SelectionConfig(keep_last=1)))
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("HSV")

    def saturation(index):
        box = browser.find_elements("class name", "body")[index].rect
        return picture.getpixel((int(box["x"] + box["width"] - 15), int(box["y"] + box["height"] - 8)))[1]

    weak, strong, dropped, last = map(saturation, range(4))
    assert strong > last > weak > dropped


def test_a_trace_that_is_trained_in_full(show):
    trace = build_trace({"question": "?", "solution": "no box\n\nWait, no box.</think>"})
    browser = show(
        render_trace_page("t", trace, StoredAttribution("k", "t", problem=trace.problem), SelectionConfig())
    )
    assert "Trained in full: no answer" in browser.find_element("id", "problem").text
    assert texts(browser) == trace.segment_texts
    assert not browser.find_element("id", "side").is_displayed()
    empty = build_trace({"question": "?", "solution": "<think></think>\\boxed{4}"})
    browser = show(
        render_trace_page("t", empty, StoredAttribution("k", "t", problem=empty.problem), SelectionConfig())
    )
    assert "no reasoning" in browser.find_element("id", "problem").text


def test_one_segment_and_no_attribution_at_all(show):
    trace = make_trace(["alone"])
    browser = show(render_trace_page("t", trace, make_row(trace, sum_abs=[0.0], sum_signed=[0.0]), SelectionConfig()))
    assert verdicts_shown(browser) == ["kept, always"]
    assert browser.find_element("id", "kept-segments").text == "1 of 1"


def test_a_long_trace_opens_whole(show):
    """95,000 characters in 271 segments and 28,000 tokens, the longest of the real ones."""
    trace = make_trace([f"step {i}: " + "let me see, x_1 = 2 " * 17 for i in range(271)])
    assert trace.reasoning[1] > 95_000
    starts = np.arange(0, trace.reasoning[1], 3.4).astype(int)
    values = np.random.default_rng(0).normal(size=len(starts))
    page = render_trace_page("t", trace, make_row(trace), SelectionConfig(), token_attributions=(starts, values))
    browser = show(page)
    assert texts(browser) == trace.segment_texts
    browser.find_element("id", "tokens").click()
    assert texts(browser) == trace.segment_texts


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    tokenizer = tiny_tokenizer()
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(2))]
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    cli.main(f"attribute --model_name_or_path {folder / 'model'} {data(folder)} {rule}".split())
    return folder


def data(folder):
    return f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / 'store'}"


def test_inspect_writes_a_page(folder, capsys):
    cli.main(f"inspect {data(folder)} --trace sum-1 --html {folder / 'new' / 'page.html'} --tau 0.4".split())
    assert "sum-1 is in" in capsys.readouterr().out
    page = Page((folder / "new" / "page.html").read_text(encoding="utf-8"))
    assert page.data["name"] == "sum-1"
    assert page.data["thresholds"]["tau"] == 0.4
    assert page.data["settings"]["rule"] == "midpoint"
    assert "token_values" not in page.data["segments"][0]


def test_inspect_attributes_tokens_with_the_stores_model_only(folder, capsys, refused):
    html = f"--trace sum-1 --html {folder / 'tokens.html'}"
    cli.main(f"inspect {data(folder)} {html} --model_name_or_path {folder / 'model'}".split())
    assert "do not quite add up" not in capsys.readouterr().out
    page = Page((folder / "tokens.html").read_text(encoding="utf-8"))
    assert all(len(segment["token_values"]) > 3 for segment in page.data["segments"])
    with refused(r"not the model of the store .*: weights of the attribution model \(hash\): stored '\w+', now '\w+'"):
        cli.main(f"inspect {data(folder)} {html} --model_name_or_path {folder / 'other'}".split())
    with refused("--html"):
        cli.main(f"inspect {data(folder)} --model_name_or_path {folder / 'model'}".split())


def test_the_page_of_a_selection_by_threshold(show):
    from selenium.webdriver.common.keys import Keys

    trace = make_trace([f"step {i}" for i in range(12)])
    row = make_row(trace)
    options = {"selection": "threshold", "min_strength": 0.1, "beta": 0.6, "consistency_scale": "chance"}
    browser = show(render_trace_page("t", trace, row, SelectionConfig(**options)))

    def expect(**config):
        config = SelectionConfig(**{**options, **config})
        assert verdicts_shown(browser) == list(select(row.segment_scores, config).verdicts)

    expect()
    exact = browser.find_element("id", "tau-value")
    exact.send_keys(Keys.CONTROL + "a", Keys.NULL, "0.2")
    expect(min_strength=0.2)
    direction = browser.find_element("id", "min-direction")
    direction.send_keys(Keys.CONTROL + "a", Keys.NULL, "0.3")
    expect(min_strength=0.2, min_direction=0.3)
    assert "dropped, against" in verdicts_shown(browser)
    assert browser.find_element("id", "command").text == (
        "--selection threshold --min_strength 0.2 --beta 0.6 --keep_first 1 --keep_last 2 --consistency_scale chance "
        "--min_direction 0.3"
    )
