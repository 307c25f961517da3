"""Does a selection of segments help a pretrained model? Fine-tune it on each selection and let it work on problems.

    python examples/study/study.py --model MODEL                # word problems whose roles are known, on GPUs
    python examples/study/study.py --model MODEL --quick        # the same on two cores, within half an hour
    python examples/study/study.py --model MODEL --dataset traces.jsonl --test_dataset problems.jsonl
    python examples/study/study.py --plan                       # what it would cost on an H200; nothing is loaded

Everything goes through the public commands. `trl-segment evaluate` says whether the model can do the task at all, and
`trl-segment sft` teaches it where it cannot (the warm-up). `trl-segment attribute` then scores the traces,
`trl-segment sft` fine-tunes once per arm and seed, and `trl-segment evaluate` lets every model work on test problems,
greedily and at temperature 0.6. The learning rate is chosen on validation problems by full SFT, which gives full SFT
the advantage.

Writes `results.md`, `results.json` and figures to `--output_dir`; work in progress lies in `--work_dir`, and what is
found there is not made again. The last line sums up in one sentence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As in the study of the tiny world: memory that is given back to the system and asked for again costs throughput
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))

import numpy as np
import word_problems
from arms import (
    ALL_STRONG,
    FREE,
    ORACLE,
    ORACLE_AND_END,
    Arm,
    Selected,
    matched_tau,
    mean_evaluations,
    option_values,
    select_traces,
    share_kept,
    write_oracle_store,
)
from commands import read_jsonl, run_command, write_jsonl, write_text
from outcomes import (
    Evaluation,
    Outcome,
    Reading,
    compare,
    draw_budgets,
    draw_outcomes,
    read_outcome,
    roles_table,
    table,
    title_of,
)
from plan import CORES, EVALUATIONS, H200, plan
from settings import QUICK, QUICK_ARMS, Settings


world = word_problems.world

MODES = ("greedy", "sampled")
ABOVE = ("--selection", "threshold", "--min_strength", "1", *FREE)
ARMS = (
    Arm("full", None, ("--selection", "all")),
    Arm("paper", "paper", ("--consistency_scale", "absolute")),
    Arm("default", "default"),
    Arm("default hidden", "default_hidden"),
    Arm("random", "default", ("--selection", "random")),
    Arm("first correct", "first_correct", ABOVE),
    Arm("rest perplexity", "rest_perplexity", ALL_STRONG, matched=True),
    Arm("marginal", "marginal", ABOVE),
    Arm("counterfactual", "counterfactual", ABOVE),
    Arm("marginal hidden", "marginal_hidden", ABOVE),
    Arm("marginal hidden, by share", "marginal_hidden"),
    Arm("counterfactual hidden", "counterfactual_hidden", ABOVE),
    Arm("oracle", "oracle", ORACLE),
    # The useful steps, and the statement of the answer that ends a trace. Who trains the steps alone never stops
    Arm("oracle and end", "oracle", ORACLE_AND_END),
)
HIDDEN = ("--answer_statements", "hidden")
# Options of `trl-segment attribute` by store
STORES: dict[str, tuple[str, ...]] = {
    "default": (),
    "default_hidden": HIDDEN,
    "paper": ("--attribution_preset", "paper"),
    "first_correct": ("--attribution_scorer", "first_correct"),
    "rest_perplexity": ("--attribution_scorer", "rest_perplexity"),
    "marginal": ("--attribution_scorer", "marginal"),
    "counterfactual": ("--attribution_scorer", "counterfactual"),
    "marginal_hidden": ("--attribution_scorer", "marginal", *HIDDEN),
    "counterfactual_hidden": ("--attribution_scorer", "counterfactual", *HIDDEN),
}
# Compared with all others, the second if it is asked for
BASELINES = ("full", "random")
# `default` says which share the comparison at a matched share keeps
NEEDED = ("full", "default")
ROLES = tuple(role for role in world.ROLES if not role.endswith("_indirect"))


@dataclass(frozen=True)
class Place:
    """
    Where the work is, and what it depends on.

    Args:
        work (`Path`):
            Folder.
        settings ([`Settings`]):
            The study.
        cuda (`bool`):
            Whether there is a GPU.
        backend (`str`):
            What decodes.
        batch_size (`int`, *optional*):
            Outputs made at a time.
    """

    work: Path
    settings: Settings
    cuda: bool
    backend: str = "auto"
    batch_size: int | None = None

    @property
    def warmup(self) -> Path:
        """Traces of the warm-up."""
        return self.work / "warmup.jsonl"

    @property
    def traces(self) -> Path:
        """Traces that are scored and fine-tuned on."""
        return self.work / "traces.jsonl"

    @property
    def validation(self) -> Path:
        """Problems on which choices are made."""
        return self.work / "validation.jsonl"

    def problems(self, seed: int) -> Path:
        """Test problems of a seed."""
        return self.work / f"problems_{seed}.jsonl"

    def store(self, name: str) -> Path:
        """Scores of the traces."""
        return self.work / "stores" / name

    @property
    def warmed(self) -> Path:
        """The model after the warm-up."""
        return self.work / "warmup" / "model"

    @property
    def start(self) -> str | Path:
        """The model that arms are fine-tuned from and that scores the traces."""
        return self.warmed if self.decision("warmup")["warmed"] else self.settings.model

    def decision(self, name: str) -> dict:
        """What was decided on the validation problems."""
        return json.loads((self.work / f"{name}.json").read_text())

    @property
    def trace_config(self):
        """How rows are read."""
        from trl_segment.traces import TraceConfig

        return TraceConfig(segmenter=self.settings.segmenter)


@dataclass(frozen=True)
class Run:
    """
    One model that works on the problems of a seed: an arm's, or one that is not fine-tuned.

    Args:
        name (`str`):
            The arm, `"base"` or `"warm-up"`.
        seed (`int`):
            Fine-tuning seed. It also says which problems the model is asked.
    """

    name: str
    seed: int

    def folder(self, place: Place) -> Path:
        """Where its outputs are."""
        return place.work / "runs" / _file_name(self.name) / str(self.seed)


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def arm_of(name: str) -> Arm:
    """The arm of a name."""
    return next(arm for arm in ARMS if arm.name == name)


# ------------------------------------------------------------------------------------------------- traces and problems


def prepare(place: Place, seeds: int, arms: list[str]) -> None:
    """
    Writes traces, validation problems and each seed's test problems, none of which is in two of them, and what the
    work depends on.

    Raises:
        `ValueError`: If the folder holds the work of other settings, or the dataset has too few rows or no roles for
            the oracle.
    """
    known, settings = place.work / "settings.json", json.loads(json.dumps(asdict(place.settings)))
    if known.exists() and (found := json.loads(known.read_text())) != settings:
        other = ", ".join(f"{k} {found.get(k)!r}, not {v!r}" for k, v in settings.items() if found.get(k) != v)
        raise ValueError(f"{place.work} holds the work of another study: {other}. Choose another --work_dir.")
    warmup, traces, validation, problems = read_rows(place.settings, seeds)
    oracle = next((name for name in arms if arm_of(name).scorer == "oracle"), None)
    if oracle and (without := next((row["id"] for row in traces if not row.get("roles")), None)):
        raise ValueError(
            f"The arm `{oracle}` needs the role of every segment, but row {without} has no column `roles`. Leave it "
            "out with --arms."
        )
    files = {place.warmup: warmup, place.traces: traces}
    for path, rows in ((place.validation, validation), *((place.problems(s), p) for s, p in enumerate(problems))):
        files[path] = [{key: row[key] for key in ("id", "question", "answer")} for row in rows]
    for path, rows in files.items():
        if not path.exists():
            write_jsonl(path, rows)
        elif read_jsonl(path) != rows:
            raise ValueError(f"{path} holds other rows than the study has now. Choose another --work_dir.")
    write_text(known, json.dumps(settings, indent=1))


def read_rows(settings: Settings, seeds: int) -> tuple[list[dict], list[dict], list[dict], list[list[dict]]]:
    """Traces for the warm-up, traces for the arms, validation problems, and each seed's test problems."""
    block = settings.block
    if settings.dataset is None:
        make = word_problems.make_rows
        tests = [list(make(settings.setting, block, "test", seed * block)) for seed in range(seeds)]
        parts = (("warmup", settings.warmup_traces), ("study", settings.traces), ("validation", settings.validation))
        warmup, traces, validation = (list(make(settings.setting, n, split)) for split, n in parts)
        return warmup, traces, validation, tests
    traces = load_rows(settings.dataset, ("question", "solution", "answer"))
    problems = load_rows(settings.test_dataset or "", ("question", "answer"))
    # What is left after the arms' traces is for the warm-up, which may see a trace more than once
    chosen, rest = traces[: settings.traces], traces[settings.traces :]
    if len(chosen) < settings.traces or (settings.warmup != "never" and not rest):
        raise ValueError(
            f"{settings.dataset} has {len(traces)} rows, too few for --traces {settings.traces} and a warm-up on "
            "others. Ask for fewer, or pass --warmup never."
        )
    first, needed = settings.validation, settings.validation + seeds * block
    if len(problems) < needed:
        raise ValueError(
            f"{settings.test_dataset} has {len(problems)} rows, but {first} validation problems and {seeds} times "
            f"{block} test problems are {needed}. Ask for fewer with --validation or --problems."
        )
    if shared := {row["question"] for row in traces} & {row["question"] for row in problems[:needed]}:
        raise ValueError(
            f"{len(shared)} questions are in {settings.dataset} and in {settings.test_dataset}, the first of them "
            f"{min(shared)[:80]!r}. Take them out of one."
        )
    tests = [problems[first + seed * block : first + (seed + 1) * block] for seed in range(seeds)]
    return rest[: settings.warmup_traces], chosen, problems[:first], tests


def load_rows(name: str, columns: tuple[str, ...]) -> list[dict]:
    """
    Rows of a file or of a dataset of the Hub (split `train`, or the only one), in their order.

    Args:
        name (`str`):
            File or name.
        columns (`tuple[str, ...]`):
            Columns that every row must have.

    Returns:
        `list[dict]`: Rows; one without `id` is called by its number.

    Raises:
        `ValueError`: If a row lacks a column.
    """
    from trl_segment.cli.data import load_splits

    splits = load_splits(name)
    rows = []
    for number, row in enumerate(splits["train"] if "train" in splits else next(iter(splits.values()))):
        if missing := [column for column in columns if not row.get(column)]:
            raise ValueError(
                f"Row {number} of {name} has no {' and no '.join(missing)}. Rows need {', '.join(columns)}."
            )
        given = {"id": str(row["id"] if row.get("id") is not None else number)}
        kept = (*columns, "roles") if row.get("roles") else columns
        rows.append(given | {column: row[column] for column in kept})
    return rows


# ---------------------------------------------------------------------------------------------- training and decoding


def fine_tune(
    place: Place, model: str | Path, dataset: Path, out: Path, steps: int, rate: float, seed: int, *options: object
) -> float:
    """Fine-tunes a model through `trl-segment sft`. Returns seconds."""
    started, settings = time.monotonic(), place.settings
    device = () if place.cuda else ("--use_cpu", "True")
    printed = run_command(
        *("sft", "--model_name_or_path", model, "--output_dir", out, "--dataset_name", dataset, *options),
        *("--segmenter", settings.segmenter, "--max_steps", steps, "--per_device_train_batch_size", settings.batch),
        *("--learning_rate", rate, "--lr_scheduler_type", "cosine", "--warmup_steps", min(5, steps // 10)),
        *("--seed", seed),
        *("--max_length", settings.max_length, "--bf16", "True", *device, "--activation_checkpointing", "False"),
        *("--report_to", "none", "--save_strategy", "no", "--logging_strategy", "no", "--disable_tqdm", "True"),
    )
    seconds = time.monotonic() - started
    write_text(out.parent / "sft.txt", f"{printed}\n{seconds:.1f} s\n")
    return seconds


def evaluate(place: Place, model: str | Path, problems: Path, folder: Path, mode: str, seed: int) -> None:
    """Lets a model work on problems; what it has done already is not done again."""
    figures, started = folder / f"{mode}.json", time.monotonic()
    if figures.exists():
        return
    settings = place.settings
    how = ("--temperature", "0") if mode == "greedy" else ("--temperature", "0.6", "--samples", settings.samples)
    temporary = folder / f"{mode}.tmp"
    size = () if place.batch_size is None else ("--batch_size", place.batch_size)
    run_command(
        *("evaluate", "--models", f"model={model}", "--problems", problems, *how, "--seed", seed),
        *("--max_new_tokens", settings.max_new_tokens, "--dtype", "bfloat16", "--backend", place.backend),
        *size,
        *("--output_dir", folder / mode, "--json", temporary),
    )
    write_text(folder / f"{mode}_seconds.json", json.dumps(time.monotonic() - started))
    temporary.replace(figures)


def accuracy(folder: Path) -> float:
    """Share of right greedy outputs in a folder."""
    return float(np.mean([row["correct"] for row in json.loads((folder / "greedy.json").read_text())["rows"]]))


def warm_up(job: tuple[Place, int]) -> None:
    """
    Decides whether the model needs a warm-up, and makes it. Alone at work, it takes all threads.
    """
    place, threads = job
    decided, settings = place.work / "warmup.json", place.settings
    if decided.exists():
        return
    import torch

    torch.set_num_threads(threads)
    folder, found = place.work / "warmup", {"base": None, "warmed": False, "after": None, "seconds": 0.0}
    if settings.warmup == "auto":
        evaluate(place, settings.model, place.validation, folder / "base", "greedy", 0)
        found["base"] = accuracy(folder / "base")
    if settings.warmup == "always" or (found["base"] is not None and found["base"] < settings.warmup_below):
        shutil.rmtree(place.warmed, ignore_errors=True)  # of a run that was killed
        found["seconds"] = fine_tune(
            *(place, settings.model, place.warmup, place.warmed),
            *(settings.warmup_steps, settings.warmup_learning_rate, 0, "--selection", "all"),
        )
        found["warmed"] = True
        evaluate(place, place.warmed, place.validation, folder / "after", "greedy", 0)
        found["after"] = accuracy(folder / "after")
    torch.set_num_threads(1)
    write_text(decided, json.dumps(found))


def score(job: tuple[Place, str]) -> None:
    """Fills one store."""
    place, name = job
    done = place.work / "stores" / f"{name}.json"
    if done.exists():
        return
    started = time.monotonic()
    if name == "oracle":
        rows = read_jsonl(place.traces)
        write_oracle_store(rows, place.store("default"), place.store(name), world.USEFUL_ROLES, place.trace_config)
        write_text(done, json.dumps({"seconds": 0.0, "evaluations": 0.0, "traces": len(rows), "printed": ""}))
        return
    printed = run_command(
        *("attribute", "--model_name_or_path", place.start, "--dataset_name", place.traces),
        *("--attributions", place.store(name), "--segmenter", place.settings.segmenter, *STORES[name]),
        *(("--dtype", "tf32") if place.cuda else ()),
    )
    from trl_segment import AttributionStore

    if not (held := len(AttributionStore(place.store(name)))):
        raise ValueError(
            f"None of the traces in {place.traces} can be attributed, so there is nothing to select from."
        )
    # Traces that an earlier run has scored took none of this one's time
    scored = int(re.search(r"(\d+) attributed with", printed)[1])
    result = {
        "seconds": (time.monotonic() - started) / scored if scored else None,
        "evaluations": mean_evaluations(place.store(name)),
        "traces": held,
        "printed": printed,
    }
    write_text(done, json.dumps(result))


def selected(place: Place, arm: Arm) -> list[Selected]:
    """What an arm keeps of the traces."""
    store = place.store(arm.scorer or "default")
    return select_traces(read_jsonl(place.traces), store, selection_options(place, arm), place.trace_config)


def selection_options(place: Place, arm: Arm) -> dict:
    """Fields of the selection, with the `tau` that matches the default selection where the arm asks for it."""
    options = option_values(arm.options)
    if arm.matched:
        wanted, store = share_kept(selected(place, arm_of("default"))), place.store(arm.scorer or "default")
        options["tau"] = matched_tau(read_jsonl(place.traces), store, wanted, place.trace_config)
    return options


def train_arm(place: Place, arm: Arm, out: Path, rate: float, seed: int) -> float:
    """Fine-tunes the start on what an arm keeps. Returns seconds."""
    shutil.rmtree(out, ignore_errors=True)  # of a run that was killed
    options = [word for name, value in selection_options(place, arm).items() for word in (f"--{name}", value)]
    store = ("--attributions", place.store(arm.scorer)) if arm.scorer else ()
    return fine_tune(place, place.start, place.traces, out, place.settings.steps, rate, seed, *store, *options)


def try_rate(job: tuple[Place, float]) -> tuple[float, float]:
    """Accuracy of full SFT on the validation problems with a learning rate."""
    place, rate = job
    folder = place.work / "learning_rates" / f"{rate:g}"
    if not (folder / "greedy.json").exists():
        train_arm(place, arm_of("full"), folder / "model", rate, 0)
        evaluate(place, folder / "model", place.validation, folder, "greedy", 0)
        shutil.rmtree(folder / "model")
    return rate, accuracy(folder)


def run_model(job: tuple[Place, Run]) -> None:
    """Fine-tunes one model, evaluates it, and keeps what it answered."""
    place, run = job
    folder = run.folder(place)
    if all((folder / f"{mode}.json").exists() for mode in MODES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    model, seconds = {"base": place.settings.model, "warm-up": place.warmed}.get(run.name), folder / "seconds.json"
    trained = model is None
    if trained:
        model, rate = folder / "model", place.decision("learning_rate")["chosen"]
        if not (seconds.exists() and model.exists()):
            write_text(seconds, json.dumps(train_arm(place, arm_of(run.name), model, rate, run.seed)))
    for mode in MODES:
        evaluate(place, model, place.problems(run.seed), folder, mode, run.seed)
    if trained:
        shutil.rmtree(model)


# --------------------------------------------------------------------------------------------------------------- page


def read_output(solution: str, answer: str) -> Reading:
    """Counts that an output names and gives right, and the roles of its segments."""
    reasoning, boxed = world.parse_solution(solution)
    given, wanted = word_problems.parse_counts(boxed or ""), word_problems.parse_counts(answer)
    return Reading(
        float(np.mean([name in given for name in wanted])),
        float(np.mean([given.get(name) == value for name, value in wanted.items()])),
        [world.role_of(segment) or "unknown" for segment in world.split_segments(reasoning)],
    )


def outcomes_of(place: Place, runs: list[Run], mode: str) -> dict[str, Outcome]:
    """What the models of every arm did."""
    by_arm: dict[str, list[Evaluation]] = {}
    for run in runs:
        folder = run.folder(place)
        one = Evaluation(folder / f"{mode}.json", folder / mode, place.problems(run.seed))
        by_arm.setdefault(run.name, []).append(one)
    reader = read_output if place.settings.dataset is None else None
    return {name: read_outcome(evaluations, reader) for name, evaluations in by_arm.items()}


def write_outcomes(place: Place, out: Path, runs: list[Run]) -> tuple[str, dict]:
    """What the models do, as Markdown and as numbers; draws the figures."""
    text, numbers, drawn = "", {}, {}
    for mode in MODES:
        drawn[mode] = outcomes_of(place, runs, mode)
        compared, numbers[mode] = compare(drawn[mode], BASELINES if "random" in drawn[mode] else BASELINES[:1])
        text += f"\n### {title_of(mode).capitalize()}\n\n{compared}"
        if place.settings.dataset is None:
            text += f"\nSegments in an output, by role (mean count):\n\n{roles_table(drawn[mode], ROLES)}"
    draw_outcomes(numbers, out / "outcomes.svg")
    draw_budgets(drawn, out / "budget.svg")
    text += "\n![Accuracy and output tokens of every arm](outcomes.svg)\n"
    return f"{text}\n![Share answered rightly within so many tokens](budget.svg)\n", numbers


def write_selections(place: Place, out: Path, arms: list[Arm]) -> tuple[str, dict]:
    """What every arm keeps of the traces, with its quality where roles are known, as Markdown and as numbers."""
    from trl_segment.evaluation.quality import selection_quality
    from trl_segment.report.quality import draw_quality

    rows, numbers, qualities = [], {}, {}
    for arm in arms:
        kept = selected(place, arm)
        flags = np.concatenate([one.kept for one in kept])
        tokens = np.concatenate([one.num_tokens for one in kept])
        count = float(np.mean([one.kept.sum() for one in kept]))
        # Where no segment has any strength there is nothing to choose by, and the whole trace is trained
        whole = sum(bool(one.kept.all()) for one in kept)
        of_tokens = float(tokens[flags].sum() / tokens.sum())
        row: dict[str, object] = {"arm": arm.name, "segments kept": f"{flags.mean():.2f}", "a trace": f"{count:.1f}"}
        row |= {"of tokens": f"{of_tokens:.2f}", "traces kept whole": f"{whole} of {len(kept)}"}
        numbers[arm.name] = {
            "kept": float(flags.mean()),
            "kept_tokens": of_tokens,
            "kept_whole": whole,
            "traces": len(kept),
        }
        if all(one.roles for one in kept):
            found = selection_quality([(one.roles or [], one.kept, one.strength) for one in kept], world.USEFUL_ROLES)
            qualities[arm.name] = found
            row |= {"P": f"{found.precision:.2f}", "R": f"{found.recall:.2f}", "F1": f"**{found.f1:.3f}**"}
            row |= {"AUC": f"{found.auc:.3f}"}
            numbers[arm.name] |= {k: getattr(found, k) for k in ("precision", "recall", "f1", "auc")}
        rows.append(row)
    text = table(list(rows[0]), [list(row.values()) for row in rows])
    if qualities:
        draw_quality(qualities, out / "quality.svg", world.USEFUL_ROLES)
        text += "\n![Share of segments kept by role](quality.svg)\n"
    return text, numbers


def write_costs(place: Place, arms: list[Arm], seeds: int) -> tuple[str, dict]:
    """What every arm costs, as Markdown and as numbers."""
    rows, numbers = [], {}
    for arm in arms:
        scored = {"evaluations": 0.0, "seconds": 0.0}
        if arm.scorer not in (None, "oracle"):
            scored = json.loads((place.work / "stores" / f"{arm.scorer}.json").read_text())
        folders = [Run(arm.name, seed).folder(place) for seed in range(seeds)]

        def seconds(name: str, folders: list[Path] = folders) -> float:
            return float(np.mean([json.loads((folder / name).read_text()) for folder in folders]))

        numbers[arm.name] = {
            "evaluations": scored["evaluations"],
            "seconds": scored["seconds"],
            "training_seconds": seconds("seconds.json"),
            "greedy_seconds": seconds("greedy_seconds.json"),
            "sampled_seconds": seconds("sampled_seconds.json"),
        }
        cost = numbers[arm.name]
        rows.append(
            [
                arm.name,
                f"{cost['evaluations']:.1f}",
                "–" if cost["seconds"] is None else f"{cost['seconds']:.1f}",
                *(f"{cost[name]:.0f}" for name in ("training_seconds", "greedy_seconds", "sampled_seconds")),
            ]
        )
    header = ["arm", "gradient evaluations a trace", "s a trace", "training, s", "greedy, s", "sampled, s"]
    return table(header, rows), numbers


def first_sentence(model: str, numbers: dict) -> str:
    """What came out: which arms are told from full SFT and from random segments, and by how much."""
    said = []
    for mode in MODES:
        full, arms = numbers[mode]["full"], numbers[mode]
        than_random = ""
        if "random" in arms:
            than_random = f"; told from random segments in accuracy: {told_apart(arms, 'accuracy_less_random')}"
        said.append(
            f"{title_of(mode)}, full SFT answers {full['accuracy']:.3f} with {full['tokens']:.0f} tokens; told from "
            f"it in accuracy: {told_apart(arms, 'accuracy_gain')}; in the share of tokens saved: "
            f"{told_apart(arms, 'tokens_saved')}{than_random}"
        )
    return f"On {model}, {'. At '.join(said)} (95 % intervals)."


def told_apart(arms: dict, what: str) -> str:
    """Fine-tuned arms whose difference is clear of zero, with it and its interval."""
    itself = {"base", "warm-up", "full", "random" if what == "accuracy_less_random" else "full"}
    compared = {name: arm[what] for name, arm in arms.items() if name not in itself}
    apart = [
        f"{name} {difference:+.3f} ({low:+.3f} to {high:+.3f})"
        for name, (difference, low, high) in compared.items()
        if low > 0 or high < 0
    ]
    return ", ".join(apart) or f"none of {len(compared)}"


HEAD = """<!-- Written by examples/study/study.py; edit that, not this. -->
# Results of the study of {model}

{sentence}

Each seed's models are asked their own part of the test problems, the same for every arm. Ranges are 95 % bootstrap
intervals over seeds and the problems of each; differences are paired.

| | |
| --- | --- |
| fine-tuning seeds | {seeds} |
| test problems | {problems}, in equal parts for the seeds |
| outputs of each | one greedy, {samples} at temperature 0.6, whose accuracy is their mean |
| task | {task} |
| traces | {traces}, {steps} steps of {batch} |
| output limit | {max_new_tokens} tokens |
| warm-up | {warmup} |
| learning rate | {rates} |
| time | {minutes} minutes with {processes} processes on {device}, without what lay in the work folder already |

## Outcomes

`base` is the model as it came{warm}.
`random` keeps as many segments of each trace as `default`, drawn by chance anew for each seed.
{outcomes}
## What the arms keep

{selections}
## Cost

Gradient evaluations (a forward pass is a third) and seconds of scoring a trace, and seconds of a model's training and
of its outputs, mean over seeds: wall clock, beside whatever else ran, with loading the model. A dash: the traces were
scored by a run that was killed. `random` selects from the scores of `default`.

{costs}"""


def write_page(place: Place, out: Path, args: argparse.Namespace, runs: list[Run], seconds: float) -> str:
    """Writes `results.md` and `results.json`. Returns the one sentence."""
    settings, warmup, rate = place.settings, place.decision("warmup"), place.decision("learning_rate")
    arms = [arm_of(name) for name in args.arms]
    outcomes, numbers = write_outcomes(place, out, runs)
    selections, kept = write_selections(place, out, arms)
    costs, cost = write_costs(place, arms, args.seeds)
    sentence = first_sentence(settings.label, numbers)
    base = "not asked" if warmup["base"] is None else f"the model as it came answers {warmup['base']:.2f}"
    made = "none"
    if warmup["warmed"]:
        made = (
            f"{settings.warmup_steps} steps of {settings.batch} other traces at {settings.warmup_learning_rate:g}, "
            f"{warmup['seconds']:.0f} s, after which it answers {warmup['after']:.2f}"
        )
    tried = ", ".join(f"{r:g}: {a:.2f}" for r, a in rate["tried"]) or "not compared"
    text = HEAD.format(
        model=settings.label,
        sentence=sentence,
        seeds=args.seeds,
        problems=args.seeds * settings.block,
        samples=settings.samples,
        minutes=round(seconds / 60, 1),
        processes=args.processes,
        device="a GPU" if place.cuda else "CPU",
        task=f"word problems, `{settings.setting}`" if settings.dataset is None else Path(settings.dataset).name,
        traces=settings.traces,
        steps=settings.steps,
        batch=settings.batch,
        max_new_tokens=settings.max_new_tokens,
        warmup=f"{made}; before it {base} ({settings.validation} validation problems, greedy)",
        rates=f"{rate['chosen']:g} (accuracy of full SFT on the validation problems: {tried})",
        warm=", `warm-up` after it has learned the task, which every arm starts from" if warmup["warmed"] else "",
        outcomes=outcomes,
        selections=selections,
        costs=costs,
    )
    results = {
        "settings": asdict(settings)
        | {"model": settings.label, "seeds": args.seeds, "minutes": round(seconds / 60, 1)},
        "warmup": warmup,
        "learning_rate": rate,
        "outcomes": numbers,
        "selections": kept,
        "costs": cost,
    }
    # NaN (no segment kept, say) is no JSON
    write_text(out / "results.json", json.dumps(_plain(results), indent=1, allow_nan=False) + "\n")
    write_text(out / "results.md", text)
    return sentence


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ------------------------------------------------------------------------------------------------------------ command


def study(args: argparse.Namespace, settings: Settings) -> None:
    """Runs everything and writes the results."""
    import torch

    started = time.monotonic()
    gpus = torch.cuda.device_count()
    args.processes = args.processes or gpus or os.cpu_count() or 1
    place = Place(Path(args.work_dir), settings, gpus > 0, args.backend, args.batch_size)
    out = Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    prepare(place, args.seeds, args.arms)
    arms = [arm_of(name) for name in args.arms]
    # Processes that start afresh: forked ones would inherit torch's thread pool
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    with ProcessPoolExecutor(args.processes, context, _take_gpu, (numbers, gpus)) as pool:

        def say(what: str) -> None:
            print(f"{(time.monotonic() - started) / 60:5.1f} minutes: {what}", flush=True)

        def do(work: Callable, jobs: list[tuple], what: str) -> list:
            futures = [pool.submit(work, job) for job in jobs]
            for number, future in enumerate(as_completed(futures), 1):
                future.result()  # an error ends the study now, not after all others
                say(f"{number} of {len(jobs)} {what}")
            return [future.result() for future in futures]

        try:
            do(warm_up, [(place, 1 if gpus else args.processes)], "decisions on a warm-up")
            say(f"{place.decision('warmup')}")
            rates = settings.learning_rates
            jobs = [(place, rate) for rate in rates] if len(rates) > 1 else []
            tried = do(try_rate, jobs, "learning rates")
            # The lowest of several that are as good
            chosen = min(tried, key=lambda one: (-one[1], one[0]))[0] if tried else rates[0]
            write_text(place.work / "learning_rate.json", json.dumps({"chosen": chosen, "tried": tried}))
            # The longest first
            stores = sorted(stores_of(arms), key=lambda name: -EVALUATIONS[name][0])
            do(score, [(place, name) for name in stores], "stores")
            do(score, [(place, "oracle")] if any(arm.scorer == "oracle" for arm in arms) else [], "oracles")
            runs = list(all_runs(place, arms, args.seeds))
            do(run_model, [(place, run) for run in runs], "models")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(write_page(place, out, args, runs, time.monotonic() - started))


def stores_of(arms: list[Arm]) -> list[str]:
    """Stores that the arms need; `default` says what others are matched with."""
    return list(dict.fromkeys(["default", *(arm.scorer for arm in arms if arm.scorer in STORES)]))


def all_runs(place: Place, arms: list[Arm], seeds: int) -> Iterator[Run]:
    """Every model that works on test problems."""
    first = ("base", "warm-up") if place.decision("warmup")["warmed"] else ("base",)
    for seed in range(seeds):
        for name in (*first, *(arm.name for arm in arms)):
            yield Run(name, seed)


def _take_gpu(numbers, gpus: int) -> None:
    """Gives each process one of the GPUs that this one may use."""
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % gpus]


def make_parser() -> argparse.ArgumentParser:
    """The command's parser. Options of the settings have no default here: `--quick` and [`Settings`] have."""
    parser = argparse.ArgumentParser(description="Compare selections of segments on any pretrained model.")
    add = parser.add_argument
    add("--model", help="pretrained model: a folder or a name of the Hub")
    add("--output_dir", default="study", help="where results.md, results.json and figures go (default: study)")
    add("--work_dir", help="where models, stores and outputs go (default: `work` in the output folder)")
    add("--quick", action="store_true", help="a small study for two cores, all of whose options can be overridden")
    add("--plan", action="store_true", help="print what it would cost on one H200 (--quick: two cores), and stop")
    task = parser.add_argument_group("task")
    task.add_argument("--setting", choices=sorted(word_problems.SETTINGS), help="setting of the word problems")
    task.add_argument("--dataset", help="traces in place of the word problems: rows with question, solution, answer")
    task.add_argument("--test_dataset", help="problems for --dataset: rows with question, answer")
    task.add_argument("--segmenter", help="where traces of --dataset are cut, as in `trl-segment attribute`")
    size = parser.add_argument_group("size")
    size.add_argument("--traces", type=int, help="traces to score, select from and fine-tune on")
    size.add_argument("--problems", type=int, help="test problems, in equal parts for the seeds")
    size.add_argument("--validation", type=int, help="problems to decide on the warm-up and the learning rate with")
    size.add_argument("--seeds", type=int, help="fine-tuning seeds (default: 3)")
    size.add_argument("--samples", type=int, help="outputs of each problem at temperature 0.6")
    size.add_argument("--max_new_tokens", type=int, help="length limit of an output")
    names = [arm.name for arm in ARMS]
    default = f"default: all of {', '.join(names)}; --quick: {', '.join(QUICK_ARMS)}"
    size.add_argument("--arms", nargs="+", choices=names, metavar="ARM", help=default)
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=int, help="fine-tuning steps of an arm")
    training.add_argument("--batch", type=int, help="traces a step")
    training.add_argument("--learning_rates", type=float, nargs="+", help="candidates, chosen from by full SFT")
    training.add_argument("--warmup", choices=["auto", "always", "never"], help="whether to teach the task first")
    training.add_argument("--warmup_below", type=float, help="auto: where the model answers less than this share")
    training.add_argument("--warmup_steps", type=int, help="steps of the warm-up, on traces of its own")
    training.add_argument("--warmup_learning_rate", type=float, help="learning rate of the warm-up")
    training.add_argument("--max_length", type=int, help="longer traces are cut in training")
    add("--processes", type=int, help="processes at work (default: one a GPU, or one a core)")
    add("--batch_size", type=int, help="outputs made at a time, for processes that share a GPU")
    add("--backend", default="auto", help="what decodes, as in `trl-segment evaluate`")
    return parser


def settings_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Settings:
    """The settings that the options ask for; fills in seeds and arms."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    quick = dict(QUICK) if args.quick else {}
    block = quick.pop("block", Settings.block)
    args.seeds = args.seeds or (1 if args.quick else 3)
    if args.problems is not None:
        block, left = divmod(args.problems, args.seeds)
        if left or block < 1:
            parser.error(
                f"--problems {args.problems} cannot be dealt to --seeds {args.seeds} in equal parts: pass a multiple"
            )
    fields = {name: given[name] for name in asdict(Settings("")) if name in given}
    settings = Settings(**{"model": "", **quick, "block": block, **fields})
    settings = replace(settings, learning_rates=tuple(settings.learning_rates))
    for name in ("traces", "validation", "samples", "max_new_tokens", "steps", "batch", "warmup_steps", "max_length"):
        if getattr(settings, name) < 1:
            parser.error(f"--{name} must be at least 1, but {getattr(settings, name)} was passed")
    if bool(settings.dataset) != bool(settings.test_dataset):
        parser.error("--dataset and --test_dataset belong together: traces to train on, and problems to ask")
    if settings.dataset and args.setting:
        parser.error("--setting has no effect beside --dataset")
    known = [arm.name for arm in ARMS if arm.scorer != "oracle" or settings.dataset is None]
    args.arms = args.arms or [name for name in known if not args.quick or name in QUICK_ARMS]
    if missing := set(NEEDED) - set(args.arms):
        parser.error(f"--arms must include {' and '.join(sorted(missing))}, which others are compared with")
    if args.model is None and not args.plan:
        parser.error("pass --model, a folder or a name of the Hub")
    return settings


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    settings = settings_of(parser, args)
    if args.plan:
        rates, tokens = (CORES, 430) if args.quick else (H200, 560)
        rates = replace(rates, processes=args.processes or rates.processes)
        stores = stores_of([arm_of(name) for name in args.arms])
        print(plan(settings, args.seeds, len(args.arms), stores, rates, tokens))
        return
    args.work_dir = args.work_dir or str(Path(args.output_dir) / "work")
    study(args, settings)


if __name__ == "__main__":
    main()
