"""The study of the tiny world from command to page, on a handful of traces; its figures mean nothing here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


FOLDER = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
sys.path.insert(0, str(FOLDER))

import study  # noqa: E402


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    command = [sys.executable, str(FOLDER / "study.py"), "--quick", "--processes", "1", "--output_dir", str(folder)]
    command += ["--arms", "full", "oracle", "counterfactual"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


def test_one_command_writes_the_page_its_numbers_and_figures(out):
    folder, printed = out
    assert printed.splitlines()[-1].startswith("repetition, greedy: base ")
    page = (folder / "results.md").read_text()
    results = json.loads((folder / "results.json").read_text())
    for figure in ("quality_repetition", "quality_detours", "outcomes_repetition", "outcomes_detours"):
        assert f"({figure}.svg)" in page
        assert "<svg" in (folder / f"{figure}.svg").read_text()
    for where in ("repetition, greedy", "repetition, sampled", "detours, greedy", "detours, sampled"):
        assert set(results["outcomes"][where]) == {"base", "full", "oracle", "counterfactual"}
    # The oracle is right by construction, and full SFT keeps everything
    for setting in ("repetition", "detours"):
        assert results["quality"][setting]["oracle"]["all"]["f1"] == 1
        assert results["quality"][setting]["full"]["all"]["recall"] == 1
        assert results["quality"][setting]["full"]["kept"] == 1
    assert results["settings"]["problems"] == 8
    greedy = results["outcomes"]["repetition, greedy"]["full"]
    assert f"{greedy['accuracy']:.3f} (" in page


def test_what_lies_in_the_work_folder_is_not_made_again(out):
    folder, _ = out
    before = {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*.json") if path.is_file()}
    assert len(before) > 12
    study.train_and_evaluate(
        (folder / "work", study.Run("repetition", None, 0, 0, 64, folder / "work" / "repetition" / "runs" / "base"))
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_differences_are_paired():
    """The same draws for every arm: what all problems have in common cancels."""
    generator = np.random.default_rng(1)
    easy = generator.random((5, 40)) < np.linspace(0, 1, 40)
    draw = study.Resamples(5, 40, draws=300)
    better = draw.means(np.minimum(easy + 0.1, 2.0)) - draw.means(easy * 1.0)
    np.testing.assert_allclose(better, 0.1)
    assert draw.means(easy * 1.0).std() > 0.02
    # One row stands for every seed
    np.testing.assert_allclose(draw.means(easy[:1] * 1.0), draw.means(np.repeat(easy[:1], 5, axis=0) * 1.0))
