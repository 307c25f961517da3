"""What models did on problems: outputs read, arms compared with paired intervals, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from commands import read_jsonl


@dataclass
class Evaluation:
    """
    Where the outputs of one model are.

    Args:
        figures (`Path`):
            What `trl-segment evaluate --json` wrote.
        outputs (`Path`):
            Its `--output_dir`.
        problems (`Path`):
            The problems.
    """

    figures: Path
    outputs: Path
    problems: Path


@dataclass
class Reading:
    """
    What an output says beside its answer as a whole, where a world knows it.

    Args:
        answered (`float`):
            Share of the parts asked for that the answer names.
        queries (`float`):
            Share of them that it gives right.
        roles (`list[str]`):
            Role of each segment.
    """

    answered: float
    queries: float
    roles: list[str]


Reader = Callable[[str, str], Reading]


@dataclass
class Outcome:
    """
    What the models of one arm did, all of shape (seeds, problems of each, samples).

    Args:
        correct (`np.ndarray`):
            Whether the whole answer is right.
        tokens (`np.ndarray`):
            Output tokens.
        cut_off (`np.ndarray`):
            Whether the output hit the limit.
        answered (`np.ndarray`, *optional*):
            See [`Reading`].
        queries (`np.ndarray`, *optional*):
            See [`Reading`].
        roles (`dict[str, float]`):
            Segments of each role in an output, mean over all.
    """

    correct: np.ndarray
    tokens: np.ndarray
    cut_off: np.ndarray
    answered: np.ndarray | None = None
    queries: np.ndarray | None = None
    roles: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> np.ndarray:
        """Whether any sample is right, shape (seeds, problems): pass@k for k samples."""
        return self.correct.max(-1)

    def first(self, seeds: int) -> Outcome:
        """The outcome of the first seeds; roles stay those of all."""
        arrays = (self.correct, self.tokens, self.cut_off, self.answered, self.queries)
        return Outcome(*(None if array is None else array[:seeds] for array in arrays), roles=self.roles)


def read_outcome(evaluations: list[Evaluation], read: Reader | None = None) -> Outcome:
    """
    Collects the evaluations of one arm, one for each seed.

    Args:
        evaluations (`list[Evaluation]`):
            Where they are. Each has as many problems and samples.
        read (`Callable`, *optional*):
            Reads an output (its text and the right answer).

    Returns:
        [`Outcome`]: What the models did.

    Raises:
        `ValueError`: If the outputs answer other problems.
    """
    columns: dict[str, list[list[list[float]]]] = {name: [] for name in ("correct", "tokens", "cut_off")}
    if read is not None:
        columns |= {"answered": [], "queries": []}
    counts: dict[str, int] = {}
    n_outputs = 0
    for one in evaluations:
        problems = {str(problem["id"]): problem for problem in read_jsonl(one.problems)}
        rows = json.loads(one.figures.read_text())["rows"]
        (written,) = one.outputs.glob("*/*.jsonl")
        outputs = {(r["id"], r["sample"]): r["solution"] for r in read_jsonl(written) if "solution" in r}
        if list(dict.fromkeys(row["id"] for row in rows)) != list(problems):
            raise ValueError(
                f"{one.figures} answers other problems than {one.problems}: remove the runs or the work folder."
            )
        for values in columns.values():
            values.append([[] for _ in problems])
        place = {name: number for number, name in enumerate(problems)}
        for row in rows:
            found = {name: float(row[name]) for name in ("correct", "tokens", "cut_off")}
            if read is not None:
                reading = read(outputs[row["id"], row["sample"]], problems[row["id"]]["answer"])
                found |= {"answered": reading.answered, "queries": reading.queries}
                for role in reading.roles:
                    counts[role] = counts.get(role, 0) + 1
            for name, value in found.items():
                columns[name][-1][place[row["id"]]].append(value)
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
        """Mean of each resample of values of shape (seeds, problems) or (seeds, problems, samples), shape (draws,)."""
        # The samples of a problem stay together
        by_problem = values if values.ndim == 2 else values.mean(-1)
        return by_problem[self.seeds, self.problems].mean((1, 2))


def interval(draws: np.ndarray, digits: int = 3) -> str:
    """The middle 95 % of draws, as text."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def with_interval(estimate: float, draws: np.ndarray) -> list[float]:
    """An estimate and the ends of the middle 95 % of its draws."""
    return [float(estimate), *np.quantile(draws, [0.025, 0.975]).tolist()]


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def compare(outcomes: dict[str, Outcome], baselines: tuple[str, ...] = ("full",)) -> tuple[str, dict]:
    """
    Compares arms with others.

    Args:
        outcomes (`dict[str, Outcome]`):
            Outcome by arm, the baselines among them.
        baselines (`tuple[str, ...]`, defaults to `("full",)`):
            Arms that all are compared with in accuracy, the first of them also in length. An arm with fewer seeds is
            compared on these.

    Returns:
        `tuple[str, dict]`: A Markdown table, and the figures by arm.
    """
    rows, numbers = [], {}
    for name, one in outcomes.items():
        seeds, problems, samples = one.correct.shape
        draw = Resamples(seeds, problems)
        base = [outcomes[baseline].first(seeds) for baseline in baselines]
        share = draw.means(base[0].tokens - one.tokens) / draw.means(base[0].tokens)
        saved = 1 - one.tokens.mean() / base[0].tokens.mean()
        row: dict[str, object] = {
            "arm": name,
            "seeds": seeds,
            "accuracy": f"{one.correct.mean():.3f} ({interval(draw.means(one.correct))})",
        }
        numbers[name] = {
            "accuracy": float(one.correct.mean()),
            "accuracy_by_seed": one.correct.mean((1, 2)).tolist(),
            "tokens": float(one.tokens.mean()),
            "cut_off": float(one.cut_off.mean()),
            "tokens_saved": with_interval(saved, share),
            "roles": one.roles,
        }
        for baseline, other in zip(baselines, base, strict=True):
            gain, draws = one.correct.mean() - other.correct.mean(), draw.means(one.correct - other.correct)
            row[f"less {baseline}"] = f"{gain:+.3f} ({interval(draws)})"
            what = "accuracy_gain" if other is base[0] else f"accuracy_less_{baseline}"
            numbers[name][what] = with_interval(gain, draws)
        row |= {
            "output tokens": f"{one.tokens.mean():.0f} ({interval(draw.means(one.tokens), 0)})",
            "saved": f"{saved:+.1%} ({interval(share, 2)})",
            "cut off": f"{one.cut_off.mean():.3f}",
        }
        if samples > 1:
            row[f"pass@{samples}"] = f"{one.passed.mean():.3f} ({interval(draw.means(one.passed))})"
            numbers[name][f"pass@{samples}"] = float(one.passed.mean())
            ahead = draw.means(one.passed - base[0].passed)
            difference = one.passed.mean() - base[0].passed.mean()
            row[f"pass@{samples} less {baselines[0]}"] = f"{difference:+.3f} ({interval(ahead)})"
            numbers[name][f"pass@{samples}_gain"] = with_interval(difference, ahead)
        if one.answered is not None and one.queries is not None:
            row |= {"answered": f"{one.answered.mean():.3f}", "queries right": f"{one.queries.mean():.3f}"}
            numbers[name] |= {"answered": float(one.answered.mean()), "queries": float(one.queries.mean())}
        rows.append(row)
    return table(list(rows[0]), [list(row.values()) for row in rows]), numbers


def roles_table(outcomes: dict[str, Outcome], roles: tuple[str, ...]) -> str:
    """Mean number of segments of each role in an output, as a Markdown table."""
    names = (*roles, "unknown")
    return table(["arm", *names], [[n, *(f"{o.roles.get(r, 0):.1f}" for r in names)] for n, o in outcomes.items()])


def title_of(mode: str) -> str:
    """What a way of decoding is called on the page."""
    return "greedy" if mode == "greedy" else "temperature 0.6"


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
        axes.set_title(title_of(mode), fontsize=10)
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
        axes.set_title(title_of(mode), fontsize=10)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, metadata={"Date": None})
