"""The report on a dataset: its counts, its figures, its page."""

import json
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from browser import console_errors, prefer_scheme
from helpers import make_rows, tiny_model, tiny_tokenizer
from test_trace_page import HOSTILE, Page

from trl_segment import AttributionStore, SelectionConfig, build_trace
from trl_segment.cli import main as cli
from trl_segment.store import StoredAttribution


pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from trl_segment.report.dataset_page import write_report
from trl_segment.report.figures import LIGHT, curve_quantiles, draw_figures
from trl_segment.report.statistics import CURVE_GRID, collect_statistics, opening_of, repeated_shares


def make_row(num_tokens, sum_abs, sum_signed, **changes):
    values = {"f_input": -1.0, "f_baseline": -11.0, "completeness_gap": 0.05, "defect": 0.3, "evaluations": 25}
    return StoredAttribution("k", "n", None, num_tokens, sum_abs, sum_signed, **{**values, **changes})


def make_trace(*pieces, **columns):
    solution = "".join(pieces) + "</think>\\boxed{4}"
    return build_trace({"question": "What is it?", "solution": solution, "answer": "4", **columns})


LONG = "the sum of all the numbers so far is twelve"


def by_hand():
    """Two traces whose every count can be said beforehand."""
    first = make_trace("One.", f"\n\nWait, {LONG}.", "\n\nHowever, b.", f"\n\nWait, {LONG}.", "\n\nBut wait, the end.")
    # strengths 4, 1, 3, 1, 1 of 10: tau 0.6 keeps the first and the third; the third is one-sided
    row = make_row([4, 16, 4, 16, 4], [8.0, 4.0, 6.0, 4.0, 2.0], [-1.0, 0.0, 6.0, 1.0, 2.0], stopped_by="tolerance")
    second = make_trace("Uno.", "\n\nWait, due.")
    # no strength at all: everything is kept
    plain = make_row([10, 20], [0.0, 0.0], [0.0, 0.0], completeness_gap=4.0, evaluations=63, stopped_by="cap")
    return [("a", first, row, ["x", "y", "y", "y", "x"]), ("b", second, plain, None)]


CONFIG = SelectionConfig(consistency_scale="absolute", tau=0.6, beta=0.8, keep_first=0, keep_last=1)


def test_counts_by_hand():
    skipped = StoredAttribution("k", "c", problem="no answer")
    rows = [*by_hand(), ("c", None, skipped, None), ("d", None, None, None)]
    counted = collect_statistics(rows, CONFIG)
    assert counted.traces == 2
    assert counted.skipped == {"no answer": ["c"]}
    assert counted.missing == ["d"]
    # of the first trace: kept (negative), weak, one-sided, weak, kept as the last; of the second both
    assert counted.segments.tolist() == [4, 2, 1, 0]
    assert counted.tokens.tolist() == [38, 32, 4, 0]
    assert counted.forced == 2
    assert counted.negative == 1
    for counts in (counted.strength, counted.consistency, counted.position, counted.length, counted.repetition):
        assert counts.sum(axis=1).tolist() == [4, 2, 1, 0]
    assert {name: count.tolist() for name, count in counted.openers.items()} == {
        "(start)": [2, 0, 0, 0],
        "Wait": [1, 2, 0, 0],
        "However": [0, 0, 1, 0],
        "But wait": [1, 0, 0, 0],
    }
    assert {name: count.tolist() for name, count in counted.roles.items()} == {"x": [2, 0, 0, 0], "y": [0, 2, 1, 0]}
    # consistency 0 and 1/4 of the weak, 1 of the one-sided
    assert np.flatnonzero(counted.consistency[1]).tolist() == [0, 6]
    assert np.flatnonzero(counted.consistency[2]).tolist() == [24]
    # middles .1 to .9 of the first trace, .25 and .75 of the second, in twentieths
    assert np.flatnonzero(counted.position.sum(axis=0)).tolist() == [2, 5, 6, 10, 14, 15, 18]
    assert counted.strength_by_position.sum() == pytest.approx(2)
    assert counted.strength_by_position[2] == pytest.approx(0.4)
    # 16 tokens: log2 is 4, the eighth half
    assert counted.length[1].tolist() == [0] * 8 + [2] + [0] * 15
    # relative gaps .5 % and 40 %, defects 3 %
    assert [np.flatnonzero(counts).size for counts in (counted.gaps, counted.defects)] == [2, 1]
    assert counted.worst_gaps == [(pytest.approx(0.4), "b"), (pytest.approx(0.005), "a")]
    assert counted.evaluations == {25: 1, 63: 1}
    assert counted.stopped_by == {"tolerance": 1, "cap": 1}


def test_a_draw_at_random_has_no_statistics():
    with pytest.raises(ValueError, match="does not depend on them"):
        collect_statistics([], SelectionConfig(selection="random"))


def test_segments_against_the_answer_are_a_group_of_their_own():
    row = make_row([4, 4, 4], [4.0, 3.0, 2.0], [-3.0, 3.0, 0.5])
    config = SelectionConfig(
        consistency_scale="absolute", tau=1.0, beta=0.8, min_direction=-0.5, keep_first=0, keep_last=0
    )
    assert collect_statistics([("a", None, row, None)], config).segments.tolist() == [1, 0, 1, 1]
    config = SelectionConfig(
        consistency_scale="absolute",
        selection="threshold",
        min_strength=1.2,
        min_direction=-0.5,
        keep_first=0,
        keep_last=0,
    )
    assert collect_statistics([("a", None, row, None)], config).segments.tolist() == [0, 1, 1, 1]


def test_scores_of_whole_segments_have_a_strength_and_no_direction():
    row = StoredAttribution("k", "n", num_tokens=[4, 16, 4], scores=[5.0, 1.0, 4.0], f_input=-1.0, evaluations=3)
    config = SelectionConfig(consistency_scale="absolute", tau=0.6, beta=0.0, keep_first=0, keep_last=0)
    counted = collect_statistics([("a", None, row, None)], config)
    assert counted.segments.tolist() == [2, 1, 0, 0]
    assert counted.tokens.tolist() == [8, 16, 0, 0]
    assert counted.negative == 0
    # Half of all strength in the first third
    assert counted.strength_by_position.sum() == pytest.approx(1)
    assert counted.strength_by_position[3] == pytest.approx(0.5)
    assert counted.gaps.sum() == counted.defects.sum() == 0
    assert counted.worst_gaps == []
    assert counted.evaluations == {3: 1}
    # Every segment is kept where nothing is chosen
    everything = collect_statistics([("a", None, row, None)], SelectionConfig(selection="all"))
    assert everything.segments.tolist() == [3, 0, 0, 0]


def test_examples_by_hand():
    examples = collect_statistics(by_hand(), CONFIG).examples
    # of two weak segments of equal length and strength the earlier; the one-sided and the kept are too short to tell
    assert {group: [(e.trace, e.index) for e in chosen] for group, chosen in examples.items()} == {
        "kept": [("b", 0)],
        "weak": [("a", 1)],
        "one-sided": [],
        "against": [],
    }
    assert examples["weak"][0].share == pytest.approx(0.1)
    rows = [
        (str(i), make_trace("One.", "\n\nWait, two."), make_row([9, 9], [1.0, 2.0 + i], [0.0, 0.0]), None)
        for i in range(6)
    ]
    config = SelectionConfig(consistency_scale="absolute", tau=0.1, keep_first=0, keep_last=0)
    kept = collect_statistics(rows, config, num_examples=3).examples["kept"]
    assert [example.trace for example in kept] == ["5", "4", "3"]


def test_repetition_by_hand():
    shares = repeated_shares([LONG, "something else altogether, really", f"  {LONG.upper()}\n", "short"], "")
    assert shares.tolist() == [0, 0, 1, 0]
    half = repeated_shares(["abcdefghijklmnopqrst", "abcdefghijklmnopqrstu"])
    assert half[1] == pytest.approx(1 / 2)
    assert repeated_shares([LONG], f"And {LONG}?")[0] == 1


def test_openings():
    openings = ["\n\nBut wait, no", "\n\nBut then", "\n\nWaiting", "\n\n等一下,不对", "\n\n$x$", "\n\n  "]
    assert [opening_of(text, 1) for text in openings] == ["But wait", "But", "Waiting", "等一下", "$", "(empty)"]
    assert opening_of("Wait", 0) == "(start)"


def test_cumulative_curve_of_known_shapes():
    equal = make_row([1] * 10, [1.0] * 10, [0.0] * 10)
    (curve,) = curve_quantiles(collect_statistics([("a", None, equal, None)], SelectionConfig()), (0.5,))
    np.testing.assert_allclose(curve, CURVE_GRID, atol=0.006)
    # the strongest of five holds 60 %, the second 25: 80 % need two of five
    steep = make_row([1] * 5, [60.0, 25.0, 5.0, 5.0, 5.0], [0.0] * 5)
    counted = collect_statistics([("a", None, steep, None)], SelectionConfig())
    (curve,) = curve_quantiles(counted, (0.5,))
    assert curve[20] == pytest.approx(0.6, abs=0.006)
    assert curve[10] == pytest.approx(0.3, abs=0.006)
    assert np.flatnonzero(counted.share_for_80).tolist() == [39]  # the bin that ends at .4
    low, high = curve_quantiles(
        collect_statistics([("a", None, steep, None), *[("b", None, equal, None)] * 3], SelectionConfig()), (0.1, 0.9)
    )
    assert low[20] == pytest.approx(0.2, abs=0.006)
    assert high[20] == pytest.approx(0.6, abs=0.006)


def test_figures_are_well_formed_and_show_text_as_it_is():
    pieces = [f"\n\n{text} and more words" for text in ("$x_1$ $", "<b>&", "中文", "עברית", "\\frac{1", "Wait")]
    solution = "Start." + "".join(pieces) + "</think>\\boxed{4}"
    trace = build_trace({"question": "?", "solution": solution}, segmenter=lambda text: ["Start.", *pieces])
    row = make_row([5] * 7, [1.0] * 7, [0.5] * 7)
    statistics = collect_statistics([("t", trace, row, HOSTILE[:7])], SelectionConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw_figures(statistics, LIGHT, "svg")
        pictures = draw_figures(statistics, LIGHT, "png")
    assert figures.keys() == pictures.keys()
    assert len(figures) == 11
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    for name, figure in figures.items():
        root = ElementTree.fromstring(figure)
        assert not [element for element in root.iter() if element.tag.endswith(("script", "image"))]
        shown = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
        assert shown
        if name == "openers":
            for opener in ("$ (1)", "< (1)", "中文 (1)", "\\ (1)", "Wait (1)"):
                assert opener in shown
        if name == "roles":
            # Long names are cut, after what cannot be shown is written out; the page's table has them whole
            assert f"{HOSTILE[0][:29]}… (1)" in shown
            assert "line\u2028paragraph\u2029nul\\x00 escape… (1)" in shown


def test_a_report_of_hostile_text_is_only_text(tmp_path, browser):
    traces = [make_trace(text, "\n\nWait, " + text * 3, "\n\nHowever, ok.") for text in HOSTILE]
    rows = [
        (text, trace, make_row([20, 9, 9], [3.0, 0.01, 1.0], [0.0, 0.0, 0.9]), HOSTILE[:3])
        for text, trace in zip(HOSTILE, traces, strict=True)
    ]
    rows += [(text, None, StoredAttribution("k", text, problem=text), None) for text in HOSTILE]
    config = SelectionConfig(tau=0.5, keep_first=0, keep_last=0)
    file = write_report(collect_statistics(rows, config), tmp_path, HOSTILE[1], {"weights": HOSTILE[2]})
    page = Page(file.read_text(encoding="utf-8"))
    assert page.title == f"{HOSTILE[1]} · trl-segment"
    assert "script-src 'sha256-" in page.policy
    assert "unsafe" not in page.policy
    assert [kind for kind, _ in page.parts] == [("style", None), ("script", "application/json"), ("script", None)]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 11
    assert all(image["src"].startswith("data:image/svg+xml;base64,") and image["alt"] for image in images)

    prefer_scheme(browser, "light")
    console_errors(browser)
    browser.get(file.as_uri())
    light = browser.execute_script("return [...document.images].map((i) => [i.naturalWidth > 0, i.currentSrc])")
    assert all(loaded for loaded, _ in light)
    prefer_scheme(browser, "dark")
    browser.get(file.as_uri())
    dark = browser.execute_script("return [...document.images].map((i) => i.currentSrc)")
    assert all(source != before for source, (_, before) in zip(dark, light, strict=True))
    assert browser.execute_script("return window.hacked") is None
    shown = browser.find_element("tag name", "body").text
    for text in (*HOSTILE[:6], HOSTILE[7]):
        assert " ".join(text.split()) in " ".join(shown.split())
    assert console_errors(browser) == []
    prefer_scheme(browser, "light")


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(5))]
    rows[3]["answer"] = ""
    write_rows(folder / "traces.jsonl", rows)
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    cli.main(
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} {rule}".split()
    )
    return folder


def write_rows(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")


def report(folder, dataset, store, output, *options):
    named = ["--dataset_name", str(folder / dataset)] if dataset else []
    cli.main(["report", *named, "--attributions", str(folder / store), "--output_dir", str(folder / output), *options])
    numbers = json.loads((folder / output / "statistics.json").read_text())
    return numbers, Page((folder / output / "index.html").read_text(encoding="utf-8"))


def test_report_agrees_with_the_store(folder, capsys):
    numbers, page = report(folder, "traces.jsonl", "store", "out", "--tau", "0.5")
    rows = [row for row in AttributionStore(folder / "store").values() if row.problem is None]
    assert numbers["traces"] == len(rows) == 4
    assert sum(numbers["segments"]) == sum(len(row.num_tokens) for row in rows)
    assert sum(numbers["tokens"]) == sum(sum(row.num_tokens) for row in rows)
    assert numbers["thresholds"]["tau"] == 0.5
    assert numbers["skipped"] == {"the answer is empty": ["sum-3"]}
    assert sum(tag == "img" for tag, _ in page.tags) == 10
    files = {file.name for file in (folder / "out" / "figures").iterdir()}
    assert len(files) == 20
    assert files >= {"cumulative_attribution.svg", "cumulative_attribution.png", "completeness.svg"}
    shown = capsys.readouterr().out
    assert "4 traces: " in shown
    assert "1 trace trained in full" in shown


def test_report_on_the_store_alone(folder):
    with_text, _ = report(folder, "traces.jsonl", "store", "out")
    numbers, page = report(folder, None, "store", "alone")
    assert not numbers["has_text"]
    for name in ("segments", "tokens", "strength", "curve", "gaps"):
        assert numbers[name] == with_text[name]
    assert sum(tag == "img" for tag, _ in page.tags) == 8


def test_report_on_one_trace(folder):
    rows = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    write_rows(folder / "one.jsonl", rows[:1])
    numbers, _ = report(folder, "one.jsonl", "store", "one")
    assert numbers["traces"] == 1


def test_rows_that_the_store_lacks_are_counted_and_named(folder, capsys, refused):
    rows = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    rows[0]["solution"] = rows[0]["solution"].replace("I need", "We need")
    write_rows(folder / "edited.jsonl", rows)
    numbers, _ = report(folder, "edited.jsonl", "store", "edited")
    assert numbers["missing"] == ["sum-0"]
    assert "1 not in the store" in capsys.readouterr().out
    write_rows(folder / "other.jsonl", [{**row, "answer": "41"} for row in rows])
    with refused(r"None of the 5 rows .* is in the store"):
        report(folder, "other.jsonl", "store", "other")


def test_an_empty_store_and_no_store_are_clear(folder, refused):
    AttributionStore(folder / "empty", AttributionStore(folder / "store").settings)
    with refused("holds no trace"):
        report(folder, "traces.jsonl", "empty", "out")
    with refused("no attribution store"):
        report(folder, "traces.jsonl", "nothing", "out")
    with refused("--selection random does not depend on the scores"):
        report(folder, "traces.jsonl", "store", "out", "--selection", "random")


def test_only_traces_that_are_trained_in_full(folder):
    rows = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    write_rows(folder / "skipped.jsonl", rows[3:4])
    numbers, page = report(folder, "skipped.jsonl", "store", "skipped")
    assert numbers["traces"] == 0
    assert not any(tag == "img" for tag, _ in page.tags)


def test_scorers_that_do_not_integrate(folder):
    cli.main(
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'perplexity'} --attribution_scorer perplexity".split()
    )
    numbers, _ = report(folder, "traces.jsonl", "perplexity", "perplexity-report")
    assert sum(numbers["gaps"]) == sum(numbers["defects"]) == 0
    assert not (folder / "perplexity-report" / "figures" / "completeness.svg").exists()
    assert not (folder / "perplexity-report" / "figures" / "evaluations.svg").exists()
