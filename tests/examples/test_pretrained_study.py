"""The study of any pretrained model: its word problems, and the whole of it on a handful of traces."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY, real_tokenizer

from trl_segment import build_trace
from trl_segment.traces import attributed_sequence
from trl_segment.traces.statements import find_statements


FOLDER = REPOSITORY / "examples" / "study"
WORLD = REPOSITORY / "examples" / "tiny_world"
# Behind the folder of the tiny world, which has a `study.py` too
sys.path.append(str(FOLDER))

import outcomes  # noqa: E402
import word_problems  # noqa: E402
from commands import read_jsonl, run_command, write_jsonl  # noqa: E402


def load_study():
    spec = importlib.util.spec_from_file_location("pretrained_study", FOLDER / "study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


study = load_study()
world = word_problems.world


# ------------------------------------------------------------------------------------------------------ word problems


def counts_of(question):
    """What the text of a question says, worked out without the generator."""
    counts = {}
    for line in re.findall(r"[^.?]+", question):
        if found := re.fullmatch(r" (\w+) had (\d+) \w+ and (found|lost) (\d+)", line):
            name, start, what, change = found.groups()
            counts[name] = int(start) + int(change) * (1 if what == "found" else -1)
        elif found := re.fullmatch(r" (\w+) has (\d+) (more|fewer) \w+ than (\w+)", line):
            name, change, what, other = found.groups()
            counts[name] = counts[other] + int(change) * (1 if what == "more" else -1)
    return counts


def asked_in(question):
    names = re.search(r"How many \w+ (?:does|do) (.*) have\?", question)[1]
    return re.split(r", | and ", names)


@pytest.mark.parametrize("setting", sorted(word_problems.SETTINGS))
def test_the_answer_is_what_the_question_s_text_makes(setting):
    for row in word_problems.make_rows(setting, 200, "test-of-answers"):
        counts, asked = counts_of(row["question"]), asked_in(row["question"])
        assert all(0 < count < 100 for count in counts.values())
        if len(asked) == 1:
            wanted = str(counts[asked[0]])
        else:
            wanted = "\\text{" + ", ".join(f"{name}={counts[name]}" for name in asked) + "}"
        assert row["answer"] == wanted
        assert row["solution"].endswith(f"\\boxed{{{wanted}}}.")
        assert build_trace({**row, "answer": None}).answer == wanted
        assert setting != "last" or asked == [list(counts)[-1]]


@pytest.mark.parametrize("setting", sorted(word_problems.SETTINGS))
def test_segments_do_what_their_roles_say(setting):
    for row in word_problems.make_rows(setting, 100, "test-of-roles"):
        texts, counts = build_trace(row).segment_texts, counts_of(row["question"])
        assert len(texts) == len(row["roles"])
        settled = []
        for text, role in zip(texts, row["roles"], strict=True):
            # Also what a model wrote has its role read off; both kinds of useful read the same
            assert world.role_of(text.lstrip()) == role.removesuffix("_indirect")
            said = re.search(r"so (\w+) has (\d+)\.", text)
            assert (said is not None) == (role in (*world.USEFUL_ROLES, "error", "verification"))
            if said is not None:
                assert (int(said[2]) == counts[said[1]]) == (role != "error")
            if role in world.USEFUL_ROLES:
                settled.append(said[1])
                assert (said[1] in asked_in(row["question"])) == (role in world.DIRECT_ROLES)
            if role == "statement":
                assert find_statements(text, row["answer"])
        # Every count is settled once, and the answer is stated at the end
        assert settled == list(counts)
        assert row["roles"][-2:] == ["statement", "statement"]


def test_wrong_guesses_come_before_the_correction_and_every_role_occurs():
    seen = set()
    for row in word_problems.make_rows("several", 100, "test-of-order"):
        roles = row["roles"]
        seen |= set(roles)
        for place, role in enumerate(roles):
            if role.startswith("correction"):
                assert "error" in roles[:place]
    assert seen == set(world.ROLES)


@pytest.mark.parametrize("setting", sorted(word_problems.SETTINGS))
def test_traces_have_300_to_800_tokens_of_words_a_tokenizer_knows(setting):
    tokenizer = real_tokenizer("qwen2")
    lengths = []
    for row in word_problems.make_rows(setting, 150, "test-of-lengths"):
        lengths.append(len(attributed_sequence(build_trace(row), tokenizer).input_ids))
        words = len(re.findall(r"\w+|[^\w\s]", row["solution"]))
        assert len(tokenizer(row["solution"]).input_ids) < 1.6 * words
    assert min(lengths) >= 300 and max(lengths) <= 800


def test_splits_share_no_problem():
    splits = [{row["question"] for row in word_problems.make_rows("several", 200, s)} for s in ("study", "test")]
    assert not splits[0] & splits[1]


def test_an_output_is_read():
    answer = "\\text{Ben=48, David=34}"
    output = (
        "<think>\nLet me see, the question wants it.\n\nWait, compute Ben: Ben had 40 and found 8. Then 40 plus 8 "
        "makes 48, so Ben has 48.\n\nHowever, tea is ready.\n</think>\n\n"
        "The answer is \\boxed{\\text{Ben=48, Anna=1}}."
    )
    reading = study.read_output(output, answer)
    assert (reading.answered, reading.queries) == (0.5, 0.5)
    assert reading.roles == ["restatement", "useful", "unknown"]
    assert study.read_output("<think>\n</think> \\boxed{7}", "7").queries == 1
    assert study.read_output("nothing", "7").queries == 0


# ----------------------------------------------------------------------------------------------------------- outcomes


def outcome(correct, tokens):
    """Each problem's samples, from one seed and of one length."""
    correct = np.array([correct], dtype=float)
    return outcomes.Outcome(correct, np.full(correct.shape, float(tokens)), np.zeros(correct.shape))


def test_samples_of_a_problem_count_once_and_pass_at_k_is_any_of_them():
    arms = {"full": outcome([[0, 0], [0, 0]], 20), "arm": outcome([[1, 0], [0, 0]], 10)}
    text, numbers = outcomes.compare(arms)
    assert numbers["arm"]["accuracy"] == 0.25
    assert numbers["arm"]["pass@2"] == 0.5
    assert numbers["arm"]["tokens_saved"] == [0.5, 0.5, 0.5]
    assert "| arm | 1 | 0.250 (0.000 to 0.500) | +0.250 (0.000 to 0.500) |" in text


def test_the_first_sentence_names_what_is_told_from_full_sft_and_from_chance():
    """Twenty problems: an arm that is right in all but one is clear of none right, and of half right."""
    right = [[1]] * 19 + [[0]]
    arms = {
        "base": outcome([[1]] * 20, 5),
        "full": outcome([[0]] * 20, 100),
        "random": outcome([[0], [1]] * 10, 100),
        "same": outcome([[0]] * 20, 100),
        "better": outcome(right, 50),
    }
    figures = outcomes.compare(arms, study.BASELINES)[1]
    sentence = study.first_sentence("M", {"greedy": figures, "sampled": figures})
    greedy, sampled = sentence.split(". At temperature 0.6, ")
    assert greedy == "On M, " + sampled.removesuffix(" (95 % intervals).").replace("full SFT", "greedy, full SFT", 1)
    accuracy, saved, chance = re.findall(r": (.+?)(?=; |$)", greedy)
    assert re.sub(r" \(.*?\)", "", accuracy) == "random +0.500, better +0.950"
    assert saved == "better +0.500 (+0.500 to +0.500)"
    assert re.sub(r" \(.*?\)", "", chance) == "same -0.500, better +0.450"
    alike = {name: outcome([[0]] * 20, 100) for name in ("full", "one", "two")}
    figures = outcomes.compare(alike)[1]
    sentence = study.first_sentence("M", {"greedy": figures, "sampled": figures})
    assert sentence.count("none of 2") == 4 and "random" not in sentence


# ---------------------------------------------------------------------------------------------------------- the whole


def run_study(*options):
    command = [sys.executable, str(FOLDER / "study.py"), "--model", str(WORLD / "checkpoint"), "--processes", "1"]
    return subprocess.run([*command, *map(str, options)], capture_output=True, text=True)


SIZE = ("--quick", "--traces", 2, "--steps", 1, "--batch", 1, "--validation", 2, "--max_new_tokens", 8)
SIZE = (*SIZE, "--learning_rates", 3e-5, 1e-4)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    arms = [arm.name for arm in study.ARMS]
    run = run_study("--output_dir", folder, *SIZE, "--problems", 3, "--warmup_steps", 1, "--arms", *arms)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


@pytest.mark.slow
def test_one_command_writes_the_page_its_numbers_and_figures(out):
    folder, printed = out
    page, results = (folder / "results.md").read_text(), json.loads((folder / "results.json").read_text())
    sentence = printed.splitlines()[-1]
    assert sentence.startswith("On checkpoint, greedy, full SFT answers 0.000 with ")
    assert str(REPOSITORY) not in page and str(folder) not in page
    assert f"\n{sentence}\n" in page
    for figure in ("outcomes", "budget", "quality"):
        assert f"({figure}.svg)" in page
        assert "<svg" in (folder / f"{figure}.svg").read_text()
    names = [arm.name for arm in study.ARMS]
    for mode in study.MODES:
        assert list(results["outcomes"][mode]) == ["base", "warm-up", *names]
    assert results["outcomes"]["sampled"]["full"]["pass@2"] == 0
    assert list(results["costs"]) == list(results["selections"]) == names
    # Roles are known: the oracle is right by construction, and full SFT keeps everything
    assert results["selections"]["oracle"]["f1"] == 1
    assert results["selections"]["full"]["recall"] == results["selections"]["full"]["kept"] == 1
    assert results["selections"]["random"]["kept"] == results["selections"]["default"]["kept"]
    assert results["costs"]["paper"]["evaluations"] >= 50 and results["costs"]["full"]["evaluations"] == 0
    # The statement that ends a trace is kept too
    assert results["selections"]["oracle and end"]["recall"] == 1
    assert results["selections"]["oracle and end"]["kept"] > results["selections"]["oracle"]["kept"]
    # A model that has never seen a word problem answers none, so it was taught, and of equal rates the lower is taken
    assert results["warmup"]["base"] == 0 and results["warmup"]["warmed"]
    assert results["learning_rate"] == {"chosen": 3e-05, "tried": [[3e-05, 0.0], [0.0001, 0.0]]}


@pytest.mark.slow
def test_a_second_seed_takes_up_the_work_of_the_first(out):
    folder, _ = out
    before = {path: path.stat().st_mtime_ns for path in (folder / "work").glob("[lrsw]*/**/*.json*") if path.is_file()}
    assert len(before) > 60
    arms = ("--arms", "full", "default")
    run = run_study("--output_dir", folder, *SIZE, "--problems", 6, "--seeds", 2, "--warmup_steps", 1, *arms)
    assert run.returncode == 0, run.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    greedy = json.loads((folder / "results.json").read_text())["outcomes"]["greedy"]
    assert {name: len(arm["accuracy_by_seed"]) for name, arm in greedy.items()} == {
        "base": 2,
        "warm-up": 2,
        "full": 2,
        "default": 2,
    }


@pytest.mark.slow
def test_another_study_s_work_folder_is_refused(out):
    folder, _ = out
    run = run_study("--output_dir", folder, *SIZE, "--problems", 3, "--warmup_steps", 2)
    assert run.returncode != 0
    assert "holds the work of another study: warmup_steps 1, not 2. Choose another --work_dir." in run.stderr


@pytest.mark.slow
def test_an_error_in_a_process_ends_the_study(tmp_path):
    run = run_study("--output_dir", tmp_path, *SIZE, "--problems", 3, "--segmenter", "no_such_file.py:cut")
    assert run.returncode == 1
    assert "no_such_file.py" in run.stderr and "ended with exit code 2; its error is above." in run.stderr


@pytest.mark.slow
def test_a_dataset_in_place_of_the_word_problems(tmp_path):
    """Rows of the tiny world, whose checkpoint can do them: nothing is taught first."""
    write_jsonl(tmp_path / "traces.jsonl", read_jsonl(WORLD / "traces.jsonl")[:3])
    write_jsonl(tmp_path / "problems.jsonl", read_jsonl(WORLD / "problems.jsonl")[:5])
    data = ("--dataset", tmp_path / "traces.jsonl", "--test_dataset", tmp_path / "problems.jsonl")
    arms = ("--arms", "full", "default", "random", "oracle")
    run = run_study("--output_dir", tmp_path, *SIZE, *data, "--problems", 3, "--warmup", "never", *arms)
    assert run.returncode == 0, run.stderr[-3000:]
    page, results = (tmp_path / "results.md").read_text(), json.loads((tmp_path / "results.json").read_text())
    assert list(results["outcomes"]["greedy"]) == ["base", *arms[1:]]
    assert results["selections"]["oracle"]["f1"] == 1
    assert "| warm-up | none; before it not asked" in page
    asked = [row["id"] for row in read_jsonl(tmp_path / "work" / "problems_0.jsonl")]
    validated = [row["id"] for row in read_jsonl(tmp_path / "work" / "validation.jsonl")]
    assert [*validated, *asked] == [row["id"] for row in read_jsonl(tmp_path / "problems.jsonl")]


# ------------------------------------------------------------------------------------------------- what it cannot do


def dataset(tmp_path, **changes):
    rows = [{"question": f"q{i}", "solution": "s", "answer": "1"} for i in range(6)]
    write_jsonl(tmp_path / "traces.jsonl", rows)
    write_jsonl(tmp_path / "problems.jsonl", [{"question": f"p{i}", "answer": "1"} for i in range(6)])
    paths = {"dataset": str(tmp_path / "traces.jsonl"), "test_dataset": str(tmp_path / "problems.jsonl")}
    return study.Settings("model", **{"traces": 4, "validation": 2, "block": 2, **paths, **changes})


def test_rows_of_a_dataset_are_dealt_without_overlap(tmp_path):
    warmup, traces, validation, tests = study.read_rows(dataset(tmp_path), 2)
    assert [row["id"] for row in traces] == ["0", "1", "2", "3"]
    assert [row["id"] for row in warmup] == ["4", "5"]
    assert [row["question"] for part in (validation, *tests) for row in part] == [f"p{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("changes", "seeds", "message"),
    [
        ({"traces": 7}, 1, "has 6 rows, too few for --traces 7"),
        ({"traces": 6}, 1, "or pass --warmup never"),
        ({}, 3, "has 6 rows, but 2 validation problems and 3 times 2 test problems are 8"),
    ],
)
def test_too_few_rows_are_refused(tmp_path, changes, seeds, message):
    with pytest.raises(ValueError, match=message):
        study.read_rows(dataset(tmp_path, **changes), seeds)


def test_a_question_in_both_files_is_refused(tmp_path):
    settings = dataset(tmp_path)
    write_jsonl(tmp_path / "problems.jsonl", [{"question": f"q{i}", "answer": "1"} for i in range(6)])
    with pytest.raises(ValueError, match=r"4 questions are in .* the first of them 'q0'"):
        study.read_rows(settings, 1)


def test_a_row_without_an_answer_is_named(tmp_path):
    settings = dataset(tmp_path)
    write_jsonl(tmp_path / "traces.jsonl", [{"question": "q", "solution": "s", "answer": ""}] * 6)
    with pytest.raises(ValueError, match=r"Row 0 of .*traces.jsonl has no answer"):
        study.read_rows(settings, 1)


def test_the_oracle_needs_roles(tmp_path):
    place = study.Place(tmp_path / "work", dataset(tmp_path), cuda=False)
    with pytest.raises(ValueError, match="row 0 has no column `roles`"):
        study.prepare(place, 1, ["full", "default", "oracle"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--problems", "7"], "in equal parts"),
        (["--traces", "0"], "--traces must be at least 1"),
        (["--arms", "full", "random"], "--arms must include default"),
        (["--dataset", "x.jsonl"], "--dataset and --test_dataset belong together"),
        (["--dataset", "x", "--test_dataset", "y", "--setting", "last"], "--setting has no effect"),
        ([], "pass --model"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        study.main(options)
    assert message in capsys.readouterr().err


def test_a_command_that_fails_ends_the_study_with_its_error(capsys):
    with pytest.raises(RuntimeError, match=r"`trl-segment attribute .*` ended with exit code 2"):
        run_command("attribute", "--no_such_option", "1")
    assert "no_such_option" in capsys.readouterr().err


def test_the_quick_form_fits_30_minutes_of_two_cores_by_its_own_arithmetic(capsys):
    study.main(["--plan", "--quick"])
    printed = capsys.readouterr().out
    assert "on two CPU cores that nothing else uses, `--processes 2`" in printed
    assert float(re.search(r"^([\d.]+) minutes", printed, re.M)[1]) <= 30
    # Five arms and the two models that are not fine-tuned, 8 problems, 1 + 2 outputs each
    assert "| test outputs | 168 in 14 batches |" in printed


def test_the_full_form_fits_25_minutes_of_one_gpu_by_its_own_arithmetic(capsys):
    arms = [
        "full",
        "paper",
        "default",
        "random",
        "first correct",
        "marginal hidden",
        "counterfactual hidden",
        "oracle",
    ]
    study.main(["--plan", "--arms", *arms])
    printed = capsys.readouterr().out
    assert printed.startswith("Seeds: 3; arms: 8; test problems: 300, with 1 + 4 outputs; traces: 200 of")
    parts = [float(minutes) for minutes in re.findall(r"\| ([\d.]+) \|$", printed, re.M)]
    total = float(re.search(r"^([\d.]+) minutes", printed, re.M)[1])
    assert len(parts) == 6 and sum(parts) == pytest.approx(total, abs=0.3)
    assert total <= 25
    # 8 arms and the two models that are not fine-tuned, 3 seeds, 100 problems, 1 + 4 outputs each
    assert "| test outputs | 15,000 in 60 batches |" in printed
    # (3 x 8 + 2 learning rates) x 50 steps x 8 traces x 560 tokens
    assert "| fine-tuning | 5.82M training tokens |" in printed
