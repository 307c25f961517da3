"""The study of the tiny world from command to page, on a handful of traces; its figures mean nothing here."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY


FOLDER = REPOSITORY / "examples" / "tiny_world"
sys.path.insert(0, str(FOLDER))

import study  # noqa: E402


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    command = [sys.executable, str(FOLDER / "study.py"), "--processes", "1", "--output_dir", str(folder)]
    command += ["--traces", "8", "--problems", "8", "--seeds", "2", "--seeds_of_others", "1", "--steps", "2"]
    command += ["--max_new_tokens", "64", "--arms", "full", "oracle", "counterfactual", "signed"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


def test_one_command_writes_the_page_its_numbers_and_figures(out):
    folder, printed = out
    assert printed.splitlines()[-1].startswith("detours, greedy: base ")
    page = (folder / "results.md").read_text()
    results = json.loads((folder / "results.json").read_text())
    for setting in study.SETTINGS:
        for figure in ("quality", "outcomes", "budget"):
            assert f"({figure}_{setting}.svg)" in page
            assert "<svg" in (folder / f"{figure}_{setting}.svg").read_text()
        for mode in ("greedy", "sampled"):
            arms = {"base", "full", "oracle", "counterfactual"} | ({"signed"} if setting == "detours" else set())
            assert set(results["outcomes"][f"{setting}, {mode}"]) == arms
    # The oracle is right by construction, and full SFT keeps everything
    for setting in study.SETTINGS:
        assert results["quality"][setting]["oracle"]["all"]["f1"] == 1
        assert results["quality"][setting]["full"]["all"]["recall"] == 1
        assert results["quality"][setting]["full"]["kept"] == 1
    assert results["settings"]["problems"] == 8
    seeds = {name: len(arm["accuracy_by_seed"]) for name, arm in results["outcomes"]["detours, greedy"].items()}
    assert seeds == {"base": 2, "full": 2, "oracle": 2, "counterfactual": 2, "signed": 1}
    greedy = results["outcomes"]["repetition, greedy"]["full"]
    assert f"{greedy['accuracy']:.3f} (" in page
    # Every output is cut off, so that the oracle gains nothing a rule could have a share of
    gained = results["outcomes"]["detours, greedy"]["counterfactual"]["of_the_oracles_gain"]
    assert gained == {"accuracy": None, "length": None}


def test_what_lies_in_the_work_folder_is_not_made_again(out):
    folder, _ = out
    before = {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*.json") if path.is_file()}
    assert len(before) > 40
    study.train_and_evaluate(
        (
            folder / "work",
            study.Run("repetition", None, 0, 0, 64, folder / "work" / "repetition" / "runs" / "base" / "0"),
        )
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_differences_are_paired():
    """The same draws for every arm: what all problems have in common cancels."""
    generator = np.random.default_rng(1)
    easy = (generator.random((5, 40)) < np.linspace(0, 1, 40)) * 1.0
    draw = study.Resamples(5, 40, draws=300)
    better = draw.means(easy + 0.1) - draw.means(easy)
    np.testing.assert_allclose(better, 0.1)
    assert 0.02 < draw.means(easy).std() < 0.05


def test_intervals_know_that_seeds_differ():
    """Five seeds that are all right or all wrong are five observations, not two hundred."""
    draw = study.Resamples(5, 40, draws=2000)
    by_seed = np.repeat([[0.0], [1.0], [0.0], [1.0], [1.0]], 40, axis=1)
    assert draw.means(by_seed).std() == pytest.approx((0.6 * 0.4 / 5) ** 0.5, rel=0.1)
    # Values stay with the seed they belong to
    assert set(np.round(draw.means(by_seed) * 5, 6)) <= {0, 1, 2, 3, 4, 5}


def test_every_seed_is_asked_problems_of_its_own(tmp_path):
    study.prepare(tmp_path, "mixed", 2, seeds=3, block=4)
    ids = [row["id"] for seed in range(3) for row in study.read_jsonl(study.problems_of(tmp_path, "mixed", seed))]
    assert len(ids) == len(set(ids)) == 12


def test_another_runs_work_folder_is_refused(tmp_path):
    study.prepare(tmp_path, "mixed", 2, seeds=1, block=4)
    with pytest.raises(ValueError, match="4 rows, not 5"):
        study.prepare(tmp_path, "mixed", 2, seeds=1, block=5)


@pytest.mark.parametrize("options", [["--problems", "7"], ["--seeds", "0"], ["--seeds_of_others", "0"]])
def test_problems_that_seeds_cannot_share_are_refused(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study.py", *options])
    with pytest.raises(SystemExit):
        study.main()
    assert "multiple of the seeds" in capsys.readouterr().err
