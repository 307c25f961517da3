"""Sufficiency and necessity: by hand on a confidence that is known, and on the trained model, where steps matter."""

import itertools
import json

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, make_rows

from trl_segment import SelectionConfig
from trl_segment.cli import main as cli
from trl_segment.evaluation.confidence import answer_log_probs, subset_log_probs
from trl_segment.evaluation.faithfulness import Faithfulness, measure_faithfulness, summarize_faithfulness, verdict
from trl_segment.selection import SegmentScores
from trl_segment.traces import attributed_sequence, build_trace


WORLD = REPOSITORY / "examples" / "tiny_world"
KEY = "00ff"


def test_a_set_of_segments_is_the_text_without_the_others(model, tokenizer):
    sequence = attributed_sequence(build_trace(make_rows(3)[2]), tokenizer)
    ids, target, segments = list(sequence.input_ids), sequence.target, sequence.segments
    sets = np.array(list(itertools.product([False, True], repeat=len(segments))))
    values = subset_log_probs(model, ids, target, segments, sets)
    for chosen, value in zip(sets, values, strict=True):
        kept = [t for (a, b), stay in zip(segments, chosen, strict=True) for t in range(a, b) if stay]
        text = ids[: segments[0][0]] + [ids[t] for t in kept] + ids[segments[-1][1] : target[1]]
        with torch.no_grad():
            log_probs = model(torch.tensor([text])).logits[0].log_softmax(-1)
        size = target[1] - target[0]
        assert value == pytest.approx(
            sum(log_probs[len(text) - size + i - 1, text[len(text) - size + i]].item() for i in range(size)), abs=1e-4
        )
    # Prefixes are sets too
    prefixes = np.tri(len(segments) + 1, len(segments), -1, dtype=bool)
    expected = answer_log_probs(model, ids, target, segments)
    assert subset_log_probs(model, ids, target, segments, prefixes) == pytest.approx(expected, abs=1e-4)


def additive(worth):
    """Each segment adds its worth; asked sets are noted."""
    asked = []

    def confidence(sets):
        asked.extend(map(tuple, sets))
        return -10 + sets @ np.array(worth, dtype=float)

    return confidence, asked


def test_measures_of_an_additive_confidence_by_hand():
    # Equal lengths. Strengths rank segments 1, 3, 0, 2, 4; tau .7 keeps 1 and 3 (8 of 11), and no end is given
    scores = SegmentScores(np.full(5, 10), scores=np.array([1.5, 5.0, 1.0, 3.0, 0.5]))
    config = SelectionConfig(tau=0.7, keep_first=0, keep_last=0)
    confidence, asked = additive([1, 4, 1, 2, 1])
    measured = measure_faithfulness(scores, config, KEY, confidence, shares=(0.2, 0.4, 0.8), draws=50)
    assert (measured.full, measured.empty, measured.share) == (-1, -10, 0.4)
    assert (measured.kept, measured.dropped) == (-10 + 6, -10 + 3)
    assert measured.top == pytest.approx([-10 + 4, -10 + 6, -10 + 8])
    assert measured.rest == pytest.approx([-10 + 5, -10 + 3, -10 + 1])
    # Two random segments of five hold 2/5 of the worth on average, and the others the rest
    assert measured.random_kept == pytest.approx(-10 + 9 * 0.4, abs=0.5)
    assert measured.random_top == pytest.approx([-10 + 9 * s for s in (0.2, 0.4, 0.8)], abs=0.5)
    assert measured.random_kept + measured.random_dropped == pytest.approx(-11)
    assert measured.random_top + measured.random_rest == pytest.approx([-11] * 3)
    assert len(set(asked)) == len(asked)
    confidence, _ = additive([1, 4, 1, 2, 1])
    again = measure_faithfulness(scores, config, KEY, confidence, shares=(0.2, 0.4, 0.8), draws=50)
    assert again.random_kept == measured.random_kept


def test_random_sets_have_the_selection_s_ends_and_tokens():
    lengths = np.array([10, 30, 20, 25, 5, 40, 15, 10])
    scores = SegmentScores(lengths, scores=np.array([0.1, 9, 0.1, 8, 0.1, 0.1, 0.1, 0.1]))
    config = SelectionConfig(tau=0.9, keep_first=1, keep_last=1)
    sets = []

    def confidence(asked):
        sets.extend(asked)
        return np.zeros(len(asked))

    measured = measure_faithfulness(scores, config, KEY, confidence, shares=(0.5,), draws=6)
    kept = [True, True, False, True, False, False, False, True]
    assert measured.share == pytest.approx(75 / 155)
    same_share = [s for s in sets if s[0] and s[-1] and abs(s @ lengths - 75) <= 20]
    assert any(s.tolist() == kept for s in same_share) and len(same_share) >= 3


def test_a_selection_that_drops_nothing_is_not_judged():
    scores = SegmentScores(np.array([10, 10]), scores=np.array([1.0, 1.0]))
    confidence, _ = additive([1, 1])
    measured = measure_faithfulness(scores, SelectionConfig(keep_first=1, keep_last=1), KEY, confidence)
    assert measured.kept is None and measured.dropped is None
    summary = summarize_faithfulness([measured])
    assert summary.judged == 0 and summary.traces == 1 and np.isnan(summary.sufficiency.gain.value)


def test_signs_of_the_summary():
    """A sufficient selection leaves the answer likelier than random sets do, a necessary one unlikelier."""
    curve = np.zeros(1)
    traces = [
        Faithfulness(0, -10, 0.3, -1 - i / 100, -9, -5, -2, curve - 1, curve - 8, curve - 4, curve - 3)
        for i in range(20)
    ]
    summary = summarize_faithfulness(traces, (0.3,))
    assert summary.sufficiency.gain.value == pytest.approx(4 - 0.095) and summary.necessity.gain.value == 7
    assert summary.sufficiency_curve[0].gain.value == 3 and summary.necessity_curve[0].gain.value == 5
    assert verdict(summary.sufficiency) == verdict(summary.necessity) == "better than random"
    assert summary.without_effect == 0


@pytest.mark.parametrize(
    ("shares", "draws"), [((), 4), ((0.0,), 4), ((0.5, 1.0), 4), ((float("nan"),), 4), ((0.5,), 0)]
)
def test_what_cannot_be_measured_is_refused(shares, draws):
    scores = SegmentScores(np.array([10, 10]), scores=np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="must"):
        measure_faithfulness(scores, SelectionConfig(), KEY, lambda sets: np.zeros(len(sets)), shares, draws)


@pytest.fixture(scope="module")
def marginal(tmp_path_factory):
    """Twelve traces of the tiny world with the scores of the backward sweep."""
    folder = tmp_path_factory.mktemp("faithfulness")
    rows = (WORLD / "traces.jsonl").read_text().splitlines()[:12]
    (folder / "traces.jsonl").write_text("\n".join(rows) + "\n")
    cli.main(
        f"attribute --model_name_or_path {WORLD / 'checkpoint'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} --attribution_scorer marginal".split()
    )
    return folder


def command(name, folder, *more):
    data = f"{name} --dataset_name {folder / 'traces.jsonl'} --attributions {folder / 'store'} --keep_first 0"
    return [*data.split(), "--keep_last", "0", *map(str, more)]


def test_the_sweep_s_selection_is_sufficient_and_necessary_in_the_tiny_world(marginal, capsys, monkeypatch):
    model = ("--model_name_or_path", WORLD / "checkpoint", "--output_dir", marginal / "out", "--draws", 2)
    cli.main(command("faithfulness", marginal, *model, "--shares", 0.3))
    shown = capsys.readouterr().out
    assert shown.count("better than random") == 4, shown
    report = json.loads((marginal / "out" / "faithfulness.json").read_text())
    assert report["traces"] == report["judged"] == 12
    assert report["sufficiency"]["gain"]["low"] > 0 and report["necessity"]["gain"]["low"] > 0
    assert report["sufficiency_curve"][0]["gain"]["low"] > 0
    # Another selection of the same traces computes only what is new
    known = len((marginal / "out" / "log_probs.jsonl").read_text().splitlines())
    monkeypatch.setattr("trl_segment.evaluation.confidence.subset_log_probs", None)
    cli.main(command("faithfulness", marginal, *model, "--shares", 0.3, "--confidence", "probability"))
    assert len((marginal / "out" / "log_probs.jsonl").read_text().splitlines()) == known
    report = json.loads((marginal / "out" / "faithfulness.json").read_text())
    assert 0 <= report["sufficiency"]["random"]["value"] <= report["sufficiency"]["chosen"]["value"] <= 1


def test_a_report_with_a_model_shows_both(marginal, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    model = ("--model_name_or_path", WORLD / "checkpoint", "--draws", 1, "--shares", 0.3, "--max_traces", 4)
    cli.main(command("report", marginal, *model, "--output_dir", tmp_path))
    assert "mean over 4 traces" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text()
    assert "Kept segments alone" in page and "Without the kept segments" in page
    numbers = json.loads((tmp_path / "statistics.json").read_text())["faithfulness"]
    assert numbers["traces"] == 4 and numbers["shares"] == [0.3]
    assert {"sufficiency.svg", "necessity.png"} <= {file.name for file in (tmp_path / "figures").iterdir()}


def test_what_the_commands_refuse(marginal, refused, tmp_path):
    with refused("does not depend on the scores"):
        cli.main(command("faithfulness", marginal, "--selection", "random"))
    with refused("model_name_or_path"):
        cli.main(command("faithfulness", marginal))
    with refused("between 0 and 1"):
        cli.main(command("faithfulness", marginal, "--shares", "1.5"))
    with refused("--draws .*without --model_name_or_path"):
        cli.main(command("report", marginal, "--draws", 2, "--output_dir", tmp_path))
    with refused("needs --dataset_name"):
        cli.main(["report", "--attributions", str(marginal / "store"), "--model_name_or_path", "m"])


def test_a_dry_run_counts_the_passes(marginal, capsys):
    cli.main(command("faithfulness", marginal, "--shares", 0.3, 0.5, "--draws", 3, "--dry_run"))
    assert "12 of 12 rows have scores: at most 26 forward passes" in capsys.readouterr().out
