"""
Quadrature rules on recorded integrands: what each would have made of the gradients of real models, without the models.

    python benchmarks/quadrature.py --recorded FOLDER [--section SECTION ...]

FOLDER holds `manifest.json`, a list of recordings, and their npz files. A recording names its `file`, its `reference`
(another file of the same trace with more or more precise nodes, or null), its `model`, `role` (`tuning` or `judging`)
and `path`. An npz file holds `xs` (nodes inside (0, 1), shape (nodes,)), `G` (the integrand, shape (nodes, tokens)),
`F` (nats, shape (nodes,)), `seg` (token spans of the segments, shape (segments, 2)) and `f` (F of the input and of the
baseline).

Rules run as they are, but choose from the recorded nodes. Sections:

- `rules`: agreement with the reference per model and role (and of the reference's own halves, which no rule can be
  shown to surpass): Spearman correlation of segment strengths (`rho`),
  correlation of token attributions (`tok`), Jaccard index of the segments kept by strength alone with the ends always
  kept (`ends`) and without (`free`), relative L1 error (`L1`). Traces of three segments count for `tok` and `L1` only.
- `stops`: the hybrid rule's outcome and diagnostics per trace, on every path.
- `false`: how often paths that have no reliable integral come out as settled, with other first nodes too.
- `repeats`: two runs on disjoint recorded nodes against each other.
- `precision`: the same nodes in two precisions, from files named `TRACE_PRECISION_PATH.npz` (no manifest entry).
- `consistency`: which scale of direction consistency repeats, on the hybrid's attributions.
"""

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trl_segment import SelectionConfig
from trl_segment.attribution import quadrature
from trl_segment.attribution.quadrature import Evaluation, SampledPath, jaccard
from trl_segment.attribution.quadrature.hybrid import ALIKE
from trl_segment.selection import select_segments


BUDGETS = (16, 24, 32)
SCALES = (
    ("absolute", 0.8),
    ("absolute", 0.9),
    ("absolute", 1.0),
    ("rank", 0.8),
    ("chance", 0.8),
)


@dataclass
class Recording:
    """One recorded path, its nodes in order."""

    name: str
    nodes: np.ndarray
    integrands: np.ndarray
    values: np.ndarray
    segments: list[tuple[int, int]]
    ends: tuple[float, float]
    ceiling: np.ndarray | None = None

    @classmethod
    def load(cls, file: Path) -> "Recording":
        data = np.load(file)
        inside = np.flatnonzero((data["xs"] > 0) & (data["xs"] < 1))
        order = inside[np.argsort(data["xs"][inside])]
        segments = [(int(a), int(b)) for a, b in data["seg"]]
        ends = float(data["f"][1]), float(data["f"][0])
        integrands = data["G"][order].astype(np.float64)
        return cls(file.stem, data["xs"][order], integrands, data["F"][order], segments, ends)

    def every_other(self, first: int) -> "Recording":
        part = slice(first, None, 2)
        return Recording(
            self.name, self.nodes[part], self.integrands[part], self.values[part], self.segments, self.ends
        )

    def at(self, nodes: list[float]) -> list[Evaluation]:
        places = np.searchsorted(self.nodes, nodes)
        return [Evaluation(float(self.values[i]), self.integrands[i]) for i in places]

    def path(self, nodes) -> SampledPath:
        nodes = np.unique(nodes)
        return SampledPath(self.ends, nodes, self.at(nodes))

    def nearest(self, nodes) -> np.ndarray:
        return self.nodes[np.abs(self.nodes[:, None] - np.asarray(nodes)[None]).argmin(axis=0)]


def run(recording: Recording, steps):
    """A rule in action, on recorded integrands. Returns its integral and the nodes it asked for."""
    asked, nodes = next(steps), []
    while True:
        nodes += asked
        try:
            asked = steps.send(recording.at(asked))
        except StopIteration as stop:
            return stop.value, nodes


def hybrid(recording: Recording, evaluations: int = 32, settle: bool = True, first=None):
    """The rule of this package; unless it may settle it spends all evaluations."""
    steps = quadrature.hybrid(evaluations, recording.ends, recording.segments, settle, recording.nodes, first)
    return run(recording, steps)


def midpoint(recording: Recording, evaluations: int) -> np.ndarray:
    return recording.path(recording.nearest((np.arange(evaluations) + 0.5) / evaluations)).plain()


def guided(recording: Recording, evaluations: int) -> np.ndarray:
    """Bisection where F moves (share of |dF| plus half the width), every panel's L1 norm set to its |dF|."""
    nodes = list(np.unique(recording.nearest((np.arange(4) + 0.5) / 4)))
    while len(nodes) < evaluations:
        path = recording.path(nodes)
        priority = path.changes / max(path.changes.sum(), 1e-300) + path.widths / 2
        for panel in np.argsort(-priority):
            start, end = path.edges[panel], path.edges[panel + 1]
            inside = recording.nodes[(recording.nodes > start) & (recording.nodes < end)]
            if len(inside):
                nodes.append(float(inside[np.abs(inside - (start + end) / 2).argmin()]))
                break
        else:
            break
    path = recording.path(nodes)
    return (path.changes / np.maximum(path.masses, 1e-300) * path.widths) @ path.means


def sums(attributions, segments):
    parts = [attributions[a:b] for a, b in segments]
    return (
        np.array([len(part) for part in parts]),
        np.array([np.abs(part).sum() for part in parts]),
        np.array([part.sum() for part in parts]),
    )


def kept(attributions, segments, ends: bool, scale: str = "absolute", beta: float = 1.0) -> np.ndarray:
    config = SelectionConfig(
        tau=0.7, beta=beta, consistency_scale=scale, keep_first=int(ends), keep_last=2 * int(ends)
    )
    chosen = select_segments(*sums(attributions, segments), config)
    return getattr(chosen, "kept", chosen)


def spearman(first, second) -> float:
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def agreement(attributions, reference, segments) -> np.ndarray:
    """rho, tok, free, ends, L1; `nan` where three segments say nothing."""
    count, strengths = None, []
    for tokens in (attributions, reference):
        count, sum_abs, _ = sums(tokens, segments)
        strengths.append(sum_abs / np.sqrt(count))
    out = [spearman(*strengths), np.corrcoef(attributions, reference)[0, 1]]
    for ends in (False, True):
        out.append(jaccard(kept(attributions, segments, ends), kept(reference, segments, ends)))
    out.append(np.abs(attributions - reference).sum() / np.abs(reference).sum())
    if len(segments) <= 3:
        out[0] = out[2] = out[3] = float("nan")
    return np.array(out)


def line(label, evaluations, rows, settled=""):
    rho, tok, free, ends, l1 = np.nanmean(rows, axis=0)
    worst = np.nanmin(np.array(rows)[:, 2])
    print(
        f"| {label} | {evaluations:.1f} | {rho:.2f} | {tok:.2f} | {ends:.2f} | {free:.2f} ({worst:.2f}) | {l1:.2f} | "
        f"{settled} |"
    )


def section_rules(groups):
    for (model, role, _), items in groups.items():
        items = [(recording, reference) for recording, reference in items if reference is not None]
        if not items:
            continue
        print(f"\n**{model}, {role}, {len(items)} traces**\n")
        print("| rule | evaluations | rho | tok | J ends | J free (worst) | L1 | settled |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")

        def compare(attributions_of, items=items):
            return [
                agreement(attributions_of(recording), reference, recording.segments) for recording, reference in items
            ]

        for budget in BUDGETS:
            line(f"midpoint {budget}", budget, compare(lambda r, n=budget: midpoint(r, n)))
            line(f"guided, l1 {budget}", budget, compare(lambda r, n=budget: guided(r, n)))
            line(
                f"hybrid, all {budget}",
                budget,
                compare(lambda r, n=budget: hybrid(r, n, settle=False)[0].attributions),
            )
        line("two halves of the reference", float("nan"), [recording.ceiling for recording, _ in items])
        for cap in (32, 64):
            results = [hybrid(recording, cap)[0] for recording, _ in items]
            rows = [
                agreement(result.attributions, reference, recording.segments)
                for result, (recording, reference) in zip(results, items, strict=True)
            ]
            settled = sum(result.stopped_by == "settled" for result in results)
            spent = np.mean([result.evaluations for result in results])
            line(f"**hybrid, cap {cap}**", spent, rows, f"{settled}/{len(items)}")


def section_stops(groups):
    print("\n| recording | segments | evaluations | outcome | gap | L1 | V | R | J halves |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for items in groups.values():
        for recording, _ in items:
            result, _ = hybrid(recording)
            d = result.reliability
            print(
                f"| {recording.name} | {len(recording.segments)} | {result.evaluations} | {result.stopped_by} | "
                f"{d.gap:.2f} | {d.l1:.1f} | {d.variation:.1f} | {d.halves_correlation:.2f} | "
                f"{d.halves_agreement:.2f} |"
            )


def section_false(groups):
    """A path settles falsely where what it gives is not what all recorded nodes give."""
    print("\n| path | model, role | settled, as it is | settled, 12 starts | settled ones, all nodes: tok, J free |")
    print("| --- | --- | --- | --- | --- |")
    for (model, role, path), items in groups.items():
        if path == "reasoning":
            continue
        own, starts, right = 0, 0, []
        for recording, _ in items:
            own += hybrid(recording)[0].stopped_by == "settled"
            everything = recording.path(recording.nodes).plain()
            for count in (7, 8, 9, 10):
                for shift in (0.375, 0.5, 0.625):
                    first = np.unique(recording.nearest((np.arange(count) + shift) / count)).tolist()
                    result, _ = hybrid(recording, first=first)
                    if result.stopped_by == "settled":
                        starts += 1
                        right.append(agreement(result.attributions, everything, recording.segments)[[1, 2]])
        found = "{:.2f}, {:.2f}".format(*np.nanmean(right, axis=0)) if right else ""
        print(f"| {path} | {model}, {role} | {own}/{len(items)} | {starts}/{12 * len(items)} | {found} |")


def section_repeats(groups):
    print("\n| model, role | rule | rho | tok | J ends | J free (worst) | L1 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (model, role, path), items in groups.items():
        items = [recording for recording, reference in items if reference is not None]
        if path != "reasoning" or not items:
            continue
        rules = {
            "midpoint 16": lambda r: midpoint(r, 16),
            "guided, l1 16": lambda r: guided(r, 16),
            "hybrid, cap 32": lambda r: hybrid(r)[0].attributions,
        }
        for name, rule_of in rules.items():
            rows = [agreement(rule_of(r.every_other(0)), rule_of(r.every_other(1)), r.segments) for r in items]
            rho, tok, free, ends, l1 = np.nanmean(rows, axis=0)
            worst = np.nanmin(np.array(rows)[:, 2])
            agreed = f"{ends:.2f} | {free:.2f} ({worst:.2f}) | {l1:.2f}"
            print(f"| {model}, {role} | {name} | {rho:.2f} | {tok:.2f} | {agreed} |")


def section_consistency(groups):
    print("\n| model, role | scale | beta | reference, ends | free | halves, ends | free | kept share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (model, role, path), items in groups.items():
        items = [item for item in items if item[1] is not None and len(item[0].segments) > 3]
        if path != "reasoning" or not items:
            continue
        results = [hybrid(recording) for recording, _ in items]
        for scale, beta in SCALES:
            rows = []
            for (recording, reference), (result, nodes) in zip(items, results, strict=True):
                path_ = recording.path(nodes)
                halves = [path_.half(k).bounded(ALIKE) for k in (0, 1)]
                row = []
                for pair in ((result.attributions, reference), halves):
                    for ends in (True, False):
                        row.append(jaccard(*(kept(a, recording.segments, ends, scale, beta) for a in pair)))
                row.append(kept(result.attributions, recording.segments, False, scale, beta).mean())
                rows.append(row)
            print(f"| {model}, {role} | {scale} | {beta} | " + " | ".join(f"{v:.2f}" for v in np.mean(rows, 0)) + " |")


PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def section_precision(folder: Path):
    """Recordings whose names, `TRACE_PRECISION_PATH.npz`, differ in the precision alone, at the nodes of both."""
    print(
        "\n| trace, path | precisions | nodes | L1 of the difference | tok, all | tok, 32 | J free, all | J free, 32 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    named = {}
    for file in sorted(folder.glob("*.npz")):
        trace, precision, *path = file.stem.split("_")
        if precision in PRECISIONS and path[-1] != "reference":
            named.setdefault((trace, " ".join(path)), {})[precision] = file
    for (trace, path), files in named.items():
        for finer, coarser in itertools.combinations([p for p in PRECISIONS if p in files], 2):
            first, second = (Recording.load(files[p]) for p in (finer, coarser))
            shared = np.intersect1d(first.nodes, second.nodes)
            if len(shared) < 32:
                continue
            pair = [r.path(shared) for r in (first, second)]
            ours, theirs = (np.array([e.integrand for e in r.at(shared)]) for r in (first, second))
            off = np.abs(theirs - ours).sum() / np.abs(ours).sum()
            cells = []
            for attributions in (
                [p.plain() for p in pair],
                [midpoint(r, 32) for r in (first, second)],
            ):
                tok = np.corrcoef(*attributions)[0, 1]
                same = jaccard(*(kept(a, first.segments, ends=False) for a in attributions))
                cells.append((f"{tok:.2f}", f"{same:.2f}" if len(first.segments) > 3 else "–"))
            toks, kepts = zip(*cells, strict=True)
            print(
                f"| {trace}, {path} | {finer}, {coarser} | {len(shared)} | {off:.0%} | {' | '.join(toks)} | "
                f"{' | '.join(kepts)} |"
            )


SECTIONS = {
    "rules": section_rules,
    "stops": section_stops,
    "false": section_false,
    "repeats": section_repeats,
    "consistency": section_consistency,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, required=True, help="Folder of recordings with its manifest.json.")
    parser.add_argument("--section", nargs="*", choices=[*SECTIONS, "precision"], default=list(SECTIONS))
    parser.add_argument("--role", choices=["tuning", "judging"], help="Only these recordings. All by default.")
    arguments = parser.parse_args()
    groups = {}
    for row in json.loads((arguments.recorded / "manifest.json").read_text()):
        if arguments.role not in (None, row["role"]):
            continue
        recording = Recording.load(arguments.recorded / row["file"])
        reference = None
        if row["reference"]:
            other = Recording.load(arguments.recorded / row["reference"])
            full = other.path(other.nodes)
            reference = full.plain()
            recording.ceiling = agreement(full.half(0).plain(), full.half(1).plain(), recording.segments)
        groups.setdefault((row["model"], row["role"], row["path"]), []).append((recording, reference))
    for name in [name for name in arguments.section if name in SECTIONS]:
        print(f"\n## {name}")
        SECTIONS[name](groups)
    if "precision" in arguments.section:
        print("\n## precision")
        section_precision(arguments.recorded)


if __name__ == "__main__":
    main()
