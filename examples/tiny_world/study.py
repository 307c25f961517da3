"""Which selection rule finds the segments that matter, and what fine-tuning on its selection does.

    python examples/tiny_world/study.py --output_dir docs/tiny_world     # about 75 minutes on two cores
    python examples/tiny_world/study.py --quality_only --traces 48       # which segments rules find, nothing trained
    python examples/tiny_world/study.py --quick --output_dir study       # does it run at all: under five minutes

Everything goes through the public commands: `trl-segment attribute` scores the traces of all settings of the world,
`trl-segment sft` fine-tunes the base model once per arm and seed, `trl-segment evaluate` lets the result work on test
problems of its own, greedily and at temperature 0.6. Every arm is trained on `detours`, those that matter most on the
other settings too. What is made here is the oracle's store (strength 1 for useful segments, 0
for others), the thresholds of the comparisons at a matched share of segments, and the tables and figures.

Writes `results.md`, `results.json` and figures to `--output_dir`; work in progress lies in `--work_dir`, and what is
found there is not made again. The last line sums up in one sentence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Keys and values grow with every token, each time into new memory. Without these, glibc gives it back to the system
# and asks for it again, which costs a seventh of the throughput of decoding. Read as a process starts: by the workers.
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))

import numpy as np


HERE = Path(__file__).resolve().parent
# What this study shares with that of any pretrained model lies there
sys.path[:0] = [str(HERE), str(HERE.parent / "study")]

import arms  # noqa: E402
import world  # noqa: E402
from arms import ALL_STRONG, FREE, ORACLE, Selected, mean_evaluations, share_kept  # noqa: E402
from commands import read_jsonl, run_command, write_jsonl  # noqa: E402
from outcomes import (  # noqa: E402
    Evaluation,
    Outcome,
    Reading,
    Resamples,
    compare,
    draw_budgets,
    draw_outcomes,
    read_outcome,
    roles_table,
    table,
    title_of,
    with_interval,
)


SETTINGS = ("detours", "repetition", "mixed")
SEEDS = 5
SEEDS_OF_OTHERS = 5  # for arms trained in one setting only
N_TRACES = 80
N_PROBLEMS = 500  # a hundred for each seed
MAX_NEW_TOKENS = 1000
# Chosen on problems of split "validation-study", for full SFT and the oracle, see the page on selection rules
STEPS, BATCH, LEARNING_RATE = 100, 2, 3e-4

# Fixed on 16 traces of "repetition" (split "rules"), see the page on selection rules; test problems were not used.
THRESHOLD = 1.0


@dataclass(frozen=True)
class Arm(arms.Arm):
    """
    An arm of this study, which selects by the paper's scorer unless another is named.

    Args:
        settings (`int`):
            In how many of `SETTINGS`, in their order, models are fine-tuned on it; its selection is measured in all.
    """

    scorer: str | None = "integrated_gradients"
    settings: int = 1


ABOVE = ("--selection", "threshold", "--min_strength", str(THRESHOLD), *FREE)
# The paper's scale of consistency, which is not the default
PAPER = ("--consistency_scale", "absolute")

ARMS = (
    Arm("full", None, ("--selection", "all"), settings=3),
    Arm("paper", options=PAPER, settings=3),
    Arm("paper, every transition", options=(*PAPER, "--transition", "every")),
    Arm("paper, no transition", options=(*PAPER, "--transition", "none")),
    Arm("paper, not forced", options=(*PAPER, *FREE), settings=0),
    Arm("strength only, not forced", options=(*ALL_STRONG, *FREE), settings=0),
    Arm("strength only", options=ALL_STRONG),
    Arm("consistency only", options=(*PAPER, "--tau", "1")),
    Arm("random", options=(*PAPER, "--selection", "random")),
    Arm("perplexity", "perplexity", ALL_STRONG, matched=True),
    Arm("entropy", "entropy", ALL_STRONG, matched=True),
    Arm("confidence gain", "confidence_gain", ALL_STRONG, matched=True),
    Arm("oracle", "oracle", ORACLE, settings=3),
    Arm("oracle, pruned", "oracle", (*ORACLE, "--dropped_segments", "prune")),
    Arm("paper, pruned", options=(*PAPER, "--dropped_segments", "prune")),
    Arm("signed", options=(*ALL_STRONG, *FREE, "--min_direction", "-0.2")),
    Arm("consistency above chance", options=("--consistency_scale", "chance", *FREE)),
    Arm("consistency by rank", options=("--consistency_scale", "rank", *FREE)),
    Arm("recursive", "recursive", (*ALL_STRONG, *FREE)),
    Arm("marginal", "marginal", ABOVE, settings=3),
    Arm("marginal, by share", "marginal"),
    Arm("counterfactual", "counterfactual", ABOVE, settings=3),
)
SCORERS = {
    "integrated_gradients": ("--attribution_path", "all", "--attribution_rule", "density"),
    "perplexity": (),
    "entropy": (),
    "confidence_gain": (),
    "recursive": (),
    "marginal": ("--attribution_threshold", str(THRESHOLD)),
    "counterfactual": ("--attribution_threshold", str(THRESHOLD)),
}


@dataclass
class Run:
    """
    One fine-tuning: an arm in a setting with a seed; `None` for the base model, which is not trained. The seed also
    says which problems the model is asked.
    """

    setting: str
    arm: Arm | None
    seed: int
    steps: int
    max_new_tokens: int
    folder: Path


# -------------------------------------------------------------------------------------------- traces and their scores


def prepare(work: Path, setting: str, n_traces: int, seeds: int, block: int) -> None:
    """Writes the traces to fine-tune on and each seed's test problems; no two share a seed of the world."""
    traces = work / setting / "traces.jsonl"
    if not traces.exists():
        write_jsonl(traces, list(world.make_rows(setting, n_traces, split="study")))
    for seed in range(seeds):
        problems = problems_of(work, setting, seed)
        if not problems.exists():
            rows = world.make_rows(setting, block, split="test", start=seed * block)
            write_jsonl(problems, [{key: row[key] for key in ("id", "question", "answer")} for row in rows])
    for path, wanted in ((traces, n_traces), *((problems_of(work, setting, seed), block) for seed in range(seeds))):
        if (found := len(read_jsonl(path))) != wanted:
            raise ValueError(f"{path} is of another run: {found} rows, not {wanted}. Choose another --work_dir.")


def problems_of(work: Path, setting: str, seed: int) -> Path:
    """Where the test problems of a fine-tuning seed stand."""
    return work / setting / f"problems_{seed}.jsonl"


def score_traces(job: tuple[Path, str, str]) -> tuple[str, str, float, str]:
    """Fills one store. Returns setting, scorer, seconds and what the command printed."""
    work, setting, scorer = job
    done = work / setting / f"{scorer}.done"
    if not done.exists():
        started = time.monotonic()
        if scorer == "oracle":
            rows, folder = read_jsonl(work / setting / "traces.jsonl"), work / setting
            arms.write_oracle_store(rows, folder / "integrated_gradients", folder / "oracle", world.USEFUL_ROLES)
            printed = "strength 1 for useful segments"
        else:
            printed = run_command(
                *("attribute", "--model_name_or_path", HERE / "checkpoint"),
                *("--dataset_name", work / setting / "traces.jsonl", "--attributions", work / setting / scorer),
                *("--attribution_scorer", scorer, *SCORERS[scorer]),
            )
        done.write_text(json.dumps([time.monotonic() - started, printed]))
    return setting, scorer, *json.loads(done.read_text())


def selections(work: Path, setting: str, arm: Arm) -> list[Selected]:
    """What an arm keeps of every trace, as `trl-segment sft` will select it."""
    rows = read_jsonl(work / setting / "traces.jsonl")
    store = work / setting / (arm.scorer or "integrated_gradients")
    return arms.select_traces(rows, store, selection_options(work, setting, arm))


def selection_options(work: Path, setting: str, arm: Arm) -> dict:
    """Fields of the selection, with the `tau` that matches the paper's rule where the arm asks for it."""
    options = arms.option_values(arm.options)
    if arm.matched:
        wanted = share_kept(selections(work, setting, next(arm for arm in ARMS if arm.name == "paper")))
        rows = read_jsonl(work / setting / "traces.jsonl")
        options["tau"] = arms.matched_tau(rows, work / setting / arm.scorer, wanted)
    return options


# ------------------------------------------------------------------------------------------ fine-tuning, evaluation


def train_and_evaluate(job: tuple[Path, Run]) -> None:
    """Fine-tunes one model through `trl-segment sft`, evaluates it, and keeps what it answered."""
    work, run = job
    run.folder.mkdir(parents=True, exist_ok=True)
    modes = {"greedy": ("--temperature", "0"), "sampled": ("--temperature", "0.6", "--seed", run.seed)}
    if all((run.folder / f"{mode}.json").exists() for mode in modes):
        return
    model = HERE / "checkpoint"
    if run.arm is not None:
        model = run.folder / "model"
        options = [f for k, v in selection_options(work, run.setting, run.arm).items() for f in (f"--{k}", str(v))]
        started = time.monotonic()
        printed = run_command(
            *("sft", "--model_name_or_path", HERE / "checkpoint", "--output_dir", model),
            *("--dataset_name", work / run.setting / "traces.jsonl"),
            *("--attributions", work / run.setting / (run.arm.scorer or "integrated_gradients"), *options),
            *("--max_steps", run.steps, "--per_device_train_batch_size", BATCH, "--learning_rate", LEARNING_RATE),
            *("--lr_scheduler_type", "cosine", "--warmup_steps", "5", "--max_length", "2048", "--seed", run.seed),
            *("--use_cpu", "True", "--bf16", "True", "--activation_checkpointing", "False", "--report_to", "none"),
            *("--save_strategy", "no", "--logging_strategy", "no", "--disable_tqdm", "True"),
        )
        (run.folder / "sft.txt").write_text(f"{printed}\n{time.monotonic() - started:.1f} s\n")
    for mode, options in modes.items():
        run_command(
            *("evaluate", "--models", model, "--problems", problems_of(work, run.setting, run.seed), *options),
            *("--max_new_tokens", run.max_new_tokens, "--batch_size", 250),
            *("--backend", "transformers", "--attn_implementation", "eager"),
            *("--output_dir", run.folder / mode),
            *("--json", run.folder / f"{mode}.tmp"),
        )
        (run.folder / f"{mode}.tmp").replace(run.folder / f"{mode}.json")
    if run.arm is not None:
        shutil.rmtree(model)


# ---------------------------------------------------------------------------------------------------- what came out


def read_output(solution: str, answer: str) -> Reading:
    """Registers that an output names and gives right, and the roles of its segments."""
    reasoning, boxed = world.parse_solution(solution)
    given, wanted = world.parse_answer(boxed or ""), world.parse_answer(answer)
    return Reading(
        float(np.mean([name in given for name in wanted])),
        float(np.mean([given.get(name) == value for name, value in wanted.items()])),
        [world.role_of(segment) or "unknown" for segment in world.split_segments(reasoning)],
    )


def outcome_of(work: Path, runs: list[Run], mode: str) -> Outcome:
    """What the runs of one arm in one setting did."""
    return read_outcome(
        [
            Evaluation(run.folder / f"{mode}.json", run.folder / mode, problems_of(work, run.setting, run.seed))
            for run in runs
        ],
        read_output,
    )


TRUTHS = {
    # name -> useful roles, ignored roles
    "direct": (world.DIRECT_ROLES, world.INDIRECT_ROLES),
    "direct only": (world.DIRECT_ROLES, ()),
    "all": (world.USEFUL_ROLES, ()),
}
ROLES = tuple(role for role in world.ROLES if not role.endswith("_indirect"))


def write_quality(work: Path, out: Path, arms: list[Arm], costs: dict) -> tuple[str, dict]:
    """Selection quality of every arm that selects, as Markdown and as numbers; draws its figures."""
    from trl_segment.evaluation.quality import selection_quality
    from trl_segment.report.quality import draw_quality

    text, numbers = "", {}
    selecting = [arm for arm in arms if "transition" not in arm.name and "pruned" not in arm.name]
    for setting in SETTINGS:
        rows, drawn = [], {}
        for arm in selecting:
            selected = selections(work, setting, arm)
            compared = [(one.roles, one.kept, one.strength) for one in selected]
            found = {name: selection_quality(compared, *truth) for name, truth in TRUTHS.items()}
            drawn[arm.name] = found["all"]
            kept = np.concatenate([one.kept for one in selected])
            tokens = np.concatenate([one.num_tokens for one in selected])
            cost = costs[setting].get(arm.scorer, {}) if arm.scorer not in (None, "oracle") else {}
            rows.append(
                [
                    arm.name,
                    f"{kept.mean():.2f}",
                    f"{tokens[kept].sum() / tokens.sum():.2f}",
                    *(
                        f"{found['direct'].precision:.2f}",
                        f"{found['direct'].recall:.2f}",
                        f"**{found['direct'].f1:.3f}**",
                    ),
                    f"{found['direct only'].f1:.3f}",
                    *(f"{found['all'].precision:.2f}", f"{found['all'].recall:.2f}", f"**{found['all'].f1:.3f}**"),
                    f"{found['all'].auc:.3f}",
                    f"{cost['evaluations']:.1f}" if cost.get("evaluations") else "–",
                    f"{cost['seconds']:.2f}" if cost else "–",
                ]
            )
            numbers.setdefault(setting, {})[arm.name] = {
                name: {k: getattr(q, k) for k in ("precision", "recall", "f1", "auc")} for name, q in found.items()
            } | {"kept": float(kept.mean()), "cost": cost}
        figure = f"quality_{setting}.svg"
        draw_quality(drawn, out / figure, world.USEFUL_ROLES)
        header = ["rule", "kept", "of tokens", "P", "R", "F1 direct", "F1 direct only", "P all", "R all", "F1 all"]
        header += ["AUC", "evaluations", "s a trace"]
        text += f"\n### {setting}\n\n{table(header, rows)}\n![Share of segments kept by role, {setting}]({figure})\n"
    return text, numbers


def write_outcomes(work: Path, out: Path, runs: list[Run]) -> tuple[str, dict]:
    """What the models do, as Markdown and as numbers; draws the figures."""
    text, numbers = "", {}
    for setting in SETTINGS:
        budgets: dict[str, dict[str, Outcome]] = {}
        by_arm: dict[str, list[Run]] = {}
        for run in runs:
            if run.setting == setting:
                by_arm.setdefault(run.arm.name if run.arm else "base", []).append(run)
        for mode in ("greedy", "sampled"):
            outcomes = {name: outcome_of(work, same, mode) for name, same in by_arm.items()}
            budgets[mode] = {name: outcomes[name] for name in SUMMARY if name in outcomes}
            compared, numbers[f"{setting}, {mode}"] = compare(outcomes)
            for name in ("marginal", "counterfactual"):
                if name in outcomes:
                    parts = gained_of_the_oracle(outcomes[name], outcomes["full"], outcomes["oracle"])
                    numbers[f"{setting}, {mode}"][name]["of_the_oracles_gain"] = parts
            text += f"\n### {setting}, {title_of(mode)}\n\n{compared}"
            text += f"\nSegments in an output, by role (mean count):\n\n{roles_table(outcomes, ROLES)}"
        figure = f"outcomes_{setting}.svg"
        draw_outcomes({mode: numbers[f"{setting}, {mode}"] for mode in ("greedy", "sampled")}, out / figure)
        text += f"\n![Accuracy and output tokens of every arm, {setting}]({figure})\n"
        figure = f"budget_{setting}.svg"
        draw_budgets(budgets, out / figure)
        text += f"\n![Share answered rightly within so many tokens, {setting}]({figure})\n"
    return text, numbers


def gained_of_the_oracle(one: Outcome, full: Outcome, oracle: Outcome) -> dict[str, list[float] | None]:
    """Which share of the oracle's gain over full SFT an arm reaches, in accuracy and length, with intervals."""
    seeds, problems = one.correct.shape[:2]
    full, oracle, draw = full.first(seeds), oracle.first(seeds), Resamples(seeds, problems)
    parts: dict[str, list[float] | None] = {}
    for what, mine, best in (
        ("accuracy", draw.means(one.correct - full.correct), draw.means(oracle.correct - full.correct)),
        ("length", draw.means(full.tokens - one.tokens), draw.means(full.tokens - oracle.tokens)),
    ):
        low, high = np.quantile(best, [0.025, 0.975])
        parts[what] = None
        if low > 0 or high < 0:  # otherwise there is nothing to have a share of
            parts[what] = with_interval(mine.mean() / best.mean(), mine / best)
    return parts


def write_gains(numbers: dict) -> str:
    """How much of what the oracle gains over full SFT a rule reaches."""
    rows = []
    for where, by_arm in numbers.items():
        for name, one in by_arm.items():
            if "of_the_oracles_gain" in one:
                parts = one["of_the_oracles_gain"]
                cells = [
                    f"{parts[k][0]:.2f} ({parts[k][1]:.2f} to {parts[k][2]:.2f})" if parts[k] else "–"
                    for k in ("accuracy", "length")
                ]
                rows.append([where, name, *cells])
    return table(["setting", "rule", "share of the oracle's gain in accuracy", "in output tokens saved"], rows)


def study(args: argparse.Namespace) -> None:
    """Runs everything and writes the results."""
    started = time.monotonic()
    work, out = Path(args.work_dir), Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    n_traces, n_problems, seeds, steps = args.traces, args.problems, args.seeds, args.steps
    chosen = [arm for arm in ARMS if arm.name in args.arms]
    # The paper's scores also say at which share comparisons are matched, and what the oracle's store looks like
    scorers = {"integrated_gradients": None} | {arm.scorer: None for arm in chosen if arm.scorer in SCORERS}
    for setting in SETTINGS:
        prepare(work, setting, n_traces, seeds, n_problems // seeds)
    # Processes that start afresh: forked ones would inherit torch's thread pool
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        jobs = [(work, setting, scorer) for scorer in scorers for setting in SETTINGS]
        costs: dict[str, dict] = {setting: {} for setting in SETTINGS}
        jobs_done = list(pool.imap(score_traces, jobs))
        jobs_done += list(pool.imap(score_traces, [(work, setting, "oracle") for setting in SETTINGS]))
        for setting, scorer, seconds, printed in jobs_done:
            costs[setting][scorer] = {
                "seconds": seconds / n_traces,
                "evaluations": mean_evaluations(work / setting / scorer),
            }
            print(f"{setting}: {scorer} in {seconds:.0f} s. {printed.strip().splitlines()[0]}", flush=True)

        if args.quality_only:
            write_page(args, out, time.monotonic() - started, write_quality(work, out, chosen, costs))
            return
        runs = []
        for seed in range(seeds):
            for number, setting in enumerate(SETTINGS):
                here = [arm for arm in chosen if arm.settings > number]
                if seed >= args.seeds_of_others:
                    here = [arm for arm in here if arm.settings > 1]
                for arm in (None, *here):
                    name = arm.name.replace(" ", "_").replace(",", "") if arm else "base"
                    folder = work / setting / "runs" / name / str(seed)
                    runs.append(Run(setting, arm, seed, steps, args.max_new_tokens, folder))
        for number, _ in enumerate(pool.imap_unordered(train_and_evaluate, [(work, run) for run in runs]), 1):
            if number % 10 == 0 or number == len(runs):
                print(f"{number} of {len(runs)} runs, {(time.monotonic() - started) / 60:.1f} minutes", flush=True)

    quality = write_quality(work, out, chosen, costs)
    write_page(args, out, time.monotonic() - started, quality, write_outcomes(work, out, runs))


def write_page(
    args: argparse.Namespace, out: Path, seconds: float, quality: tuple, outcomes: tuple | None = None
) -> None:
    """Writes `results.md` and `results.json`, and prints the one line."""
    settings = {
        "traces": args.traces,
        "problems": args.problems,
        "seeds": args.seeds,
        "seeds_of_others": args.seeds_of_others,
        "steps": args.steps,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "threshold": THRESHOLD,
        "minutes": round(seconds / 60, 1),
        "processes": args.processes,
    }
    results = {"settings": settings, "quality": quality[1]}
    page = HEAD.format(quality=quality[0], **settings)
    line = ""
    if outcomes is not None:
        results["outcomes"] = outcomes[1]
        page += TRAINED.format(outcomes=outcomes[0], gains=write_gains(outcomes[1]), **settings)
        greedy = outcomes[1]["detours, greedy"]
        line = ", ".join(
            f"{n} {greedy[n]['accuracy']:.3f} / {greedy[n]['tokens']:.0f}" for n in SUMMARY if n in greedy
        )
        line = f"detours, greedy: {line} (accuracy / tokens); "
    (out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out / "results.md").write_text(page, encoding="utf-8")
    for name in ("paper", "marginal", "counterfactual"):
        if name in quality[1]["detours"]:
            found = [quality[1][setting][name]["direct"]["f1"] for setting in SETTINGS]
            line += f"F1 of {name} {', '.join(f'{f1:.3f}' for f1 in found)}; "
    print(f"{line}{settings['minutes']} minutes")


SUMMARY = ("base", "full", "paper", "marginal", "counterfactual", "oracle")
HEAD = """<!-- Written by examples/tiny_world/study.py; edit that, not this. -->
# Results of the study

{minutes} minutes with {processes} processes of one thread on two cores of a cloud CPU, without what lay in the work
folder already. What the arms are and what follows from this: [selection rules](../selection_rules.md).

## Selection quality

{traces} traces a setting. `direct` counts steps whose result the answer names and leaves those needed only through
others out of the count; `direct only` counts these as redundant; `all` counts both as useful. `evaluations` is the
cost of a trace in gradient evaluations (a forward pass is a third); seconds are wall clock, beside whatever else ran.
{quality}"""
TRAINED = """
## After fine-tuning

{steps} steps of {batch} traces at learning rate {learning_rate}, {seeds} fine-tuning seeds ({seeds_of_others}
for arms trained in one setting only), {problems} test problems in equal parts: each seed's models are asked their own
part, the same for every arm. Ranges are 95 % bootstrap intervals over seeds and the problems of each; differences are
paired, over the seeds that an arm has. The second figure of each setting counts an output as right if it is right and
no longer than a budget.
{outcomes}
## Share of the oracle's gain

(rule - full) / (oracle - full). A dash: the oracle's own gain is not clear of zero (its interval spans it).

{gains}"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare selection rules in the tiny world.")
    parser.add_argument("--output_dir", default="study", help="where results.md, results.json and figures go")
    parser.add_argument("--work_dir", help="where stores and answers go; default: `work` in the output folder")
    parser.add_argument("--quick", action="store_true", help="a run of minutes whose figures say nothing")
    parser.add_argument("--traces", type=int, default=N_TRACES, help="traces to select from and fine-tune on")
    parser.add_argument("--problems", type=int, default=N_PROBLEMS, help="test problems, in equal parts for the seeds")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="fine-tuning seeds of arms trained in all settings")
    parser.add_argument("--seeds_of_others", type=int, default=SEEDS_OF_OTHERS, help="fine-tuning seeds of the others")
    parser.add_argument("--steps", type=int, default=STEPS, help="fine-tuning steps")
    parser.add_argument("--quality_only", action="store_true", help="compare selections with the truth, train nothing")
    parser.add_argument("--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help="length limit of an answer")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes of one thread")
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", default=names, choices=names, help="default: all", metavar="ARM")
    args = parser.parse_args()
    if missing := {"full", "oracle", "counterfactual"} - set(args.arms):
        parser.error(f"--arms must include {', '.join(sorted(missing))}, which the tables compare with")
    if args.quick:
        args.traces, args.problems, args.seeds, args.steps, args.max_new_tokens = 8, 8, 1, 2, 64
    if min(args.seeds, args.seeds_of_others) < 1 or args.problems < 1 or args.problems % args.seeds:
        parser.error(
            f"--problems {args.problems} cannot be dealt to --seeds {args.seeds} in equal parts, or no seed is left "
            f"for --seeds_of_others {args.seeds_of_others}: pass positive numbers and a multiple of the seeds"
        )
    args.work_dir = args.work_dir or str(Path(args.output_dir) / "work")
    study(args)


if __name__ == "__main__":
    main()
