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
import contextlib
import dataclasses
import io
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
sys.path.insert(0, str(HERE))

import world  # noqa: E402


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
class Arm:
    """
    One way to choose what is trained.

    Args:
        name (`str`):
            Name in tables.
        scorer (`str`, *optional*):
            Store to select from, one of `SCORERS`, `"oracle"` or `None` (nothing to select: full SFT).
        options (`tuple[str, ...]`):
            Options of the selection for `trl-segment sft`.
        matched (`bool`):
            Whether `tau` is set so that the share of kept segments is that of the paper's rule.
        settings (`int`):
            In how many of `SETTINGS`, in their order, models are fine-tuned on it; its selection is measured in all.
    """

    name: str
    scorer: str | None = "integrated_gradients"
    options: tuple[str, ...] = ()
    matched: bool = False
    settings: int = 1


FREE = ("--keep_first", "0", "--keep_last", "0")
ABOVE = ("--selection", "threshold", "--min_strength", str(THRESHOLD), *FREE)
ALL_STRONG = ("--beta", "1")
# The paper's scale of consistency, which is not the default
PAPER = ("--consistency_scale", "absolute")
ORACLE = ("--selection", "threshold", "--min_strength", "0.5", *FREE)

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


def run_command(*argv: object) -> str:
    """Runs `trl-segment` in this process and returns what it printed."""
    from trl_segment.cli.main import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([str(argument) for argument in argv])
    return printed.getvalue()


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Writes one JSON object a line, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)


def read_jsonl(path: Path) -> list[dict]:
    """Reads one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
            printed = write_oracle_store(work, setting)
        else:
            printed = run_command(
                *("attribute", "--model_name_or_path", HERE / "checkpoint"),
                *("--dataset_name", work / setting / "traces.jsonl", "--attributions", work / setting / scorer),
                *("--attribution_scorer", scorer, *SCORERS[scorer]),
            )
        done.write_text(json.dumps([time.monotonic() - started, printed]))
    return setting, scorer, *json.loads(done.read_text())


def write_oracle_store(work: Path, setting: str) -> str:
    """A store like that of the attributions in which a useful segment has strength 1 and any other 0."""
    from trl_segment import AttributionStore, build_trace
    from trl_segment.store import StoredAttribution

    attributed = AttributionStore(work / setting / "integrated_gradients")
    settings = dataclasses.replace(attributed.settings, scorer="oracle", options={})
    store = AttributionStore(work / setting / "oracle", settings)
    for row in read_jsonl(work / setting / "traces.jsonl"):
        scored = attributed[build_trace(row).key]
        store.add(
            StoredAttribution(
                key=scored.key,
                name=scored.name,
                num_tokens=scored.num_tokens,
                scores=[float(role in world.USEFUL_ROLES) for role in row["roles"]],
                sequence_tokens=scored.sequence_tokens,
            )
        )
    store.flush()
    return "strength 1 for useful segments"


def selections(work: Path, setting: str, arm: Arm) -> list[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """Roles, kept flags, strengths and token counts of every trace, as `trl-segment sft` will select them."""
    from trl_segment import AttributionStore, SelectionConfig, build_trace
    from trl_segment.selection import select

    options = selection_options(work, setting, arm)
    config = SelectionConfig(**{k: v for k, v in options.items() if k != "dropped_segments"}, seed=0)
    store = AttributionStore(work / setting / (arm.scorer or "integrated_gradients"))
    result = []
    for row in read_jsonl(work / setting / "traces.jsonl"):
        key = build_trace(row).key
        scores = store[key].segment_scores
        result.append((row["roles"], select(scores, config, key).kept, scores.strength, scores.num_tokens))
    return result


def selection_options(work: Path, setting: str, arm: Arm) -> dict:
    """Fields of the selection, with the matched `tau` where the arm asks for it."""
    names = [option.removeprefix("--") for option in arm.options[::2]]
    values = [int(v) if v.isdigit() else float(v) if _is_number(v) else v for v in arm.options[1::2]]
    options = dict(zip(names, values, strict=True))
    if arm.matched:
        options["tau"] = matched_tau(work, setting, arm.scorer)
    return options


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def matched_tau(work: Path, setting: str, scorer: str) -> float:
    """The `tau` at which a scorer's strongest segments are as many as the paper's rule keeps."""
    paper = next(arm for arm in ARMS if arm.name == "paper")
    wanted = np.concatenate([kept for _, kept, _, _ in selections(work, setting, paper)]).mean()
    low, high = 0.0, 1.0
    for _ in range(12):
        tau = (low + high) / 2
        arm = Arm("", scorer, (*ALL_STRONG, "--tau", f"{tau:.6f}"))
        share = np.concatenate([kept for _, kept, _, _ in selections(work, setting, arm)]).mean()
        low, high = (tau, high) if share < wanted else (low, tau)
    return round(tau, 4)


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
            *("--use_cpu", "True", "--bf16", "True", "--gradient_checkpointing", "False", "--report_to", "none"),
            *("--save_strategy", "no", "--logging_strategy", "no", "--disable_tqdm", "True"),
        )
        (run.folder / "sft.txt").write_text(f"{printed}\n{time.monotonic() - started:.1f} s\n")
    for mode, options in modes.items():
        run_command(
            *("evaluate", "--models", model, "--problems", problems_of(work, run.setting, run.seed), *options),
            *("--max_new_tokens", run.max_new_tokens, "--batch_size", 250, "--attn_implementation", "eager"),
            *("--output_dir", run.folder / mode),
            *("--json", run.folder / f"{mode}.tmp"),
        )
        (run.folder / f"{mode}.tmp").replace(run.folder / f"{mode}.json")
    if run.arm is not None:
        shutil.rmtree(model)


# ---------------------------------------------------------------------------------------------------- what came out


@dataclass
class Outcome:
    """
    What the models of one arm did, all of shape (seeds, problems of each).

    Args:
        correct (`np.ndarray`):
            Whether the whole answer is right.
        tokens (`np.ndarray`):
            Output tokens.
        cut_off (`np.ndarray`):
            Whether the output hit the limit.
        answered (`np.ndarray`):
            Share of the registers asked for that the answer names.
        queries (`np.ndarray`):
            Share of them that it gives right.
        roles (`dict[str, float]`):
            Segments of each role in an output, mean over all.
    """

    correct: np.ndarray
    tokens: np.ndarray
    cut_off: np.ndarray
    answered: np.ndarray
    queries: np.ndarray
    roles: dict[str, float]

    def first(self, seeds: int) -> Outcome:
        """The outcome of the first seeds; roles stay those of all."""
        names = ("correct", "tokens", "cut_off", "answered", "queries")
        return Outcome(**{name: getattr(self, name)[:seeds] for name in names}, roles=self.roles)


def read_outcome(work: Path, runs: list[Run], mode: str) -> Outcome:
    """Collects the runs of one arm in one setting."""
    columns: dict[str, list[list[float]]] = {k: [] for k in ("correct", "tokens", "cut_off", "answered", "queries")}
    counts: dict[str, int] = {}
    n_outputs = 0
    for run in runs:
        folder, problems = run.folder, read_jsonl(problems_of(work, run.setting, run.seed))
        rows = json.loads((folder / f"{mode}.json").read_text())["rows"]
        (written,) = (folder / mode).glob("*/*.jsonl")
        outputs = {record["id"]: record["solution"] for record in read_jsonl(written) if "solution" in record}
        if [row["id"] for row in rows] != [problem["id"] for problem in problems]:
            raise ValueError(
                f"{folder / mode}.json answers other problems than {problems_of(work, run.setting, run.seed)}: "
                "remove the runs or the work folder."
            )
        for values in columns.values():
            values.append([])
        for row, problem in zip(rows, problems, strict=True):
            reasoning, boxed = world.parse_solution(outputs[row["id"]])
            given = world.parse_answer(boxed or "")
            wanted = world.parse_answer(problem["answer"])
            columns["correct"][-1].append(row["correct"])
            columns["tokens"][-1].append(row["tokens"])
            columns["cut_off"][-1].append(row["cut_off"])
            columns["answered"][-1].append(np.mean([name in given for name in wanted]))
            columns["queries"][-1].append(np.mean([given.get(name) == value for name, value in wanted.items()]))
            for segment in world.split_segments(reasoning):
                role = world.role_of(segment) or "unknown"
                counts[role] = counts.get(role, 0) + 1
            n_outputs += 1
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items()}
    return Outcome(**arrays, roles={role: count / n_outputs for role, count in counts.items()})


class Resamples:
    """
    Bootstrap over seeds and over the problems of each, the same draws for every arm, so that differences are paired.

    Args:
        seeds (`int`):
            Fine-tuning seeds.
        problems (`int`):
            Problems of each.
        draws (`int`, defaults to `2000`):
            Resamples.
    """

    def __init__(self, seeds: int, problems: int, draws: int = 2000) -> None:
        generator = np.random.default_rng(0)
        self.seeds = generator.integers(0, seeds, (draws, seeds, 1))
        self.problems = generator.integers(0, problems, (draws, seeds, problems))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of each resample of values of shape (seeds, problems), shape (draws,)."""
        return values[self.seeds, self.problems].mean((1, 2))


def interval(draws: np.ndarray, digits: int = 3) -> str:
    """The middle 95 % of draws, as text."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


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
            compared = [(roles, kept, strength) for roles, kept, strength, _ in selected]
            found = {name: selection_quality(compared, *truth) for name, truth in TRUTHS.items()}
            drawn[arm.name] = found["all"]
            kept = np.concatenate([kept for _, kept, _, _ in selected])
            tokens = np.concatenate([n for _, _, _, n in selected])
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
            outcomes = {name: read_outcome(work, same, mode) for name, same in by_arm.items()}
            budgets[mode] = {name: outcomes[name] for name in SUMMARY if name in outcomes}
            rows, numbers[f"{setting}, {mode}"] = [], {}
            for name, one in outcomes.items():
                # An arm with fewer seeds is compared with full SFT on these
                seeds, problems = one.correct.shape
                full, oracle = outcomes["full"].first(seeds), outcomes["oracle"].first(seeds)
                draw = Resamples(seeds, problems)
                accuracy, tokens = draw.means(one.correct), draw.means(one.tokens)
                gain, saved = draw.means(one.correct - full.correct), draw.means(full.tokens - one.tokens)
                share = saved / draw.means(full.tokens)
                rows.append(
                    [
                        name,
                        seeds,
                        f"{one.correct.mean():.3f} ({interval(accuracy)})",
                        f"{one.correct.mean() - full.correct.mean():+.3f} ({interval(gain)})",
                        f"{one.tokens.mean():.0f} ({interval(tokens, 0)})",
                        f"{1 - one.tokens.mean() / full.tokens.mean():+.1%} ({interval(share, 2)})",
                        f"{one.cut_off.mean():.3f}",
                        f"{one.answered.mean():.3f}",
                        f"{one.queries.mean():.3f}",
                    ]
                )
                numbers[f"{setting}, {mode}"][name] = {
                    "accuracy": float(one.correct.mean()),
                    "accuracy_by_seed": one.correct.mean(1).tolist(),
                    "tokens": float(one.tokens.mean()),
                    "cut_off": float(one.cut_off.mean()),
                    "answered": float(one.answered.mean()),
                    "queries": float(one.queries.mean()),
                    "accuracy_gain": [float(gain.mean()), *np.quantile(gain, [0.025, 0.975]).tolist()],
                    "tokens_saved": [float(share.mean()), *np.quantile(share, [0.025, 0.975]).tolist()],
                    "roles": one.roles,
                }
                if name in ("marginal", "counterfactual"):
                    parts = {}
                    for what, mine, best in (
                        ("accuracy", gain, draw.means(oracle.correct - full.correct)),
                        ("length", saved, draw.means(full.tokens - oracle.tokens)),
                    ):
                        low, high = np.quantile(best, [0.025, 0.975])
                        parts[what] = None
                        if low > 0 or high < 0:  # otherwise there is nothing to have a share of
                            low, high = np.quantile(mine / best, [0.025, 0.975])
                            parts[what] = [float(mine.mean() / best.mean()), float(low), float(high)]
                    numbers[f"{setting}, {mode}"][name]["of_the_oracles_gain"] = parts
            header = [
                "arm",
                "seeds",
                "accuracy",
                "less full",
                "output tokens",
                "saved",
                "cut off",
                "answered",
                "queries right",
            ]
            title = "greedy" if mode == "greedy" else "temperature 0.6"
            text += f"\n### {setting}, {title}\n\n{table(header, rows)}"
            text += "\nSegments in an output, by role (mean count):\n\n"
            text += table(
                ["arm", *ROLES, "unknown"],
                [[n, *(f"{o.roles.get(r, 0):.1f}" for r in (*ROLES, "unknown"))] for n, o in outcomes.items()],
            )
        figure = f"outcomes_{setting}.svg"
        draw_outcomes({mode: numbers[f"{setting}, {mode}"] for mode in ("greedy", "sampled")}, out / figure)
        text += f"\n![Accuracy and output tokens of every arm, {setting}]({figure})\n"
        figure = f"budget_{setting}.svg"
        draw_budgets(budgets, out / figure)
        text += f"\n![Share answered rightly within so many tokens, {setting}]({figure})\n"
    return text, numbers


def draw_budgets(outcomes: dict[str, dict[str, Outcome]], path: Path) -> None:
    """Accuracy if every output were cut off at a budget, from the outputs there are, one panel a mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (mode, arms) in zip(figure.subplots(1, 2), outcomes.items(), strict=True):
        budgets = np.arange(0, max(one.tokens.max() for one in arms.values()) + 1, 10)
        for name, one in arms.items():
            right = np.sort(one.tokens[one.correct > 0])
            axes.plot(budgets, np.searchsorted(right, budgets, side="right") / one.correct.size, label=name)
        axes.set_xlabel("token budget")
        axes.set_ylabel("accuracy within the budget")
        axes.set_title("greedy" if mode == "greedy" else "temperature 0.6", fontsize=10)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def draw_outcomes(numbers: dict, path: Path) -> None:
    """Accuracy against output tokens, one panel a mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (mode, arms) in zip(figure.subplots(1, 2), numbers.items(), strict=True):
        for number, (name, one) in enumerate(arms.items()):
            look = {"color": f"C{number % 7}", "marker": "os^"[number // 7 % 3]}
            axes.plot(one["tokens"], one["accuracy"], linestyle="none", markersize=5, label=name, **look)
        axes.set_xlabel("output tokens, mean")
        axes.set_ylabel("accuracy")
        axes.set_title("greedy" if mode == "greedy" else "temperature 0.6", fontsize=10)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def write_gains(numbers: dict) -> str:
    """How much of what the oracle gains over full SFT a rule reaches."""
    rows = []
    for where, arms in numbers.items():
        for name, one in arms.items():
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
                "evaluations": mean_evaluations(work, setting, scorer),
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


def mean_evaluations(work: Path, setting: str, scorer: str) -> float:
    """Gradient evaluations a trace in a store."""
    from trl_segment import AttributionStore

    store = AttributionStore(work / setting / scorer)
    return float(np.mean([store[key].evaluations for key in store]))


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
