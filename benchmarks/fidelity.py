r"""
Quadrature rules of this package on the trained model of `examples/tiny_world`, against a fine integral:

    OMP_NUM_THREADS=1 python benchmarks/fidelity.py [--traces N] [--paths all reasoning] [--json FILE]

A random model says nothing about a rule: its integrand is smooth. Constants were not chosen on this world for the rule
`hybrid`, but for `simpson` and `density` on its first version. Pretrained models have a benchmark of their own,
`real_model.py`, and recorded integrands `quadrature.py`.

The reference is adaptive Simpson at a tolerance of 0.0005 and at most 256 evaluations; a line below the table says
how far it is from itself with half of them. `evaluations` are gradient evaluations per trace, `l1_error` is the
relative L1 error of the token attributions, `jaccard` and `exact` compare the kept segments (`tau` 0.7, strength
alone) with those of the reference, `ends` with the ends always kept and `free` without. All are means over traces. A
node of a trace is evaluated once and shared between the rules that ask for it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_segment import SelectionConfig
from trl_segment.attribution import IntegratedGradients
from trl_segment.attribution.quadrature import jaccard
from trl_segment.selection import select, sum_over_segments
from trl_segment.traces import attributed_sequence, build_trace


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
COLUMNS = ("path", "rule", "evaluations", "l1_error", "jaccard_ends", "exact_ends", "jaccard_free", "exact_free")
ENDS = SelectionConfig(beta=1.0)
FREE = SelectionConfig(beta=1.0, keep_first=0, keep_last=0)
RULES = {
    "hybrid (default)": {"rule": "hybrid"},
    "hybrid, cap 64": {"rule": "hybrid", "evaluations": 64},
    "simpson": {"rule": "simpson"},
    "simpson stop=decision": {"rule": "simpson", "stop": "decision"},
    "density 32": {"rule": "density", "evaluations": 32},
    "midpoint 16": {"rule": "midpoint", "evaluations": 16},
    "midpoint 32": {"rule": "midpoint", "evaluations": 32},
    "gauss_legendre 32": {"rule": "gauss_legendre", "evaluations": 32},
    "trapezoid 50": {"rule": "trapezoid", "evaluations": 50},
    "paper 50": {"rule": "paper", "evaluations": 50},
}
REFERENCE = {"rule": "simpson", "tolerance": 5e-4}
_REFERENCE_EVALUATIONS = 256


class SharingNodes(IntegratedGradients):
    """The engine, that remembers the nodes of one trace and path, so that no rule evaluates one a second time."""

    known: dict

    def _evaluate(self, run, nodes, real, base):
        new = [node for node in nodes if node not in self.known]
        self.known.update(zip(new, super()._evaluate(run, new, real, base), strict=True))
        return [self.known[node] for node in nodes]


def compare(tokens, truth, segments):
    """`l1_error`, then Jaccard index and exact match of the kept segments, with the ends always kept and without."""
    numbers = [np.abs(tokens - truth).sum() / np.abs(truth).sum()]
    for config in (ENDS, FREE):
        ours, theirs = (select(sum_over_segments(x, segments), config).kept for x in (tokens, truth))
        numbers += [jaccard(ours, theirs), float(np.array_equal(ours, theirs))]
    return numbers


def load_world(count):
    """The trained model, `count` sequences of all kinds in turn, and up to 8 others to learn a density on."""
    model = AutoModelForCausalLM.from_pretrained(WORLD / "checkpoint", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(WORLD / "checkpoint")
    kinds = {}
    for line in (WORLD / "traces.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kinds.setdefault(row["id"].rsplit("-", 1)[0], []).append(attributed_sequence(build_trace(row), tokenizer))
    mixed = [sequence for group in zip(*kinds.values(), strict=False) for sequence in group]
    return model, mixed[:count], mixed[count : count + min(count, 8)]


def measure(path, model, sequences, others):
    """Rows of all rules on one path, and what is to be said about the reference."""
    plain = IntegratedGradients(model, path=path)
    density = plain.learn_density([(s.input_ids, s.target, s.segments) for s in others])
    engines = {name: SharingNodes(model, path=path, density=density, **rule) for name, rule in RULES.items()}
    fine = SharingNodes(model, path=path, evaluations=_REFERENCE_EVALUATIONS, **REFERENCE)
    results, convergence = {name: [] for name in RULES}, []
    for sequence in sequences:
        case, known = (sequence.input_ids, sequence.target, sequence.segments), {}
        fine.known = known
        reference = fine.attribute(*case)
        coarse = SharingNodes(model, path=path, evaluations=reference.evaluations // 2, **REFERENCE)
        coarse.known = known
        error = compare(coarse.attribute(*case).tokens, reference.tokens, sequence.segments)[0]
        convergence.append((reference.evaluations, error))
        for name, engine in engines.items():
            engine.known = known
            found = engine.attribute(*case)
            results[name].append([found.evaluations, *compare(found.tokens, reference.tokens, sequence.segments)])
    rows = [
        dict(zip(COLUMNS, (path, name, *np.mean(result, axis=0).tolist()), strict=True))
        for name, result in results.items()
    ]
    evaluations, errors = np.array(convergence).T
    remark = (
        f"Reference, path {path}: {evaluations.mean():.0f} evaluations on average (most {evaluations.max():.0f}); "
        f"with half of them it differs by {errors.mean():.4f} (most {errors.max():.4f}) in L1."
    )
    return rows, remark


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=6, help="Number of traces.")
    parser.add_argument("--paths", nargs="+", default=["reasoning", "all"], choices=["reasoning", "all"])
    parser.add_argument("--json", type=Path, help="File for the rows.")
    args = parser.parse_args()
    began = time.perf_counter()
    model, sequences, others = load_world(args.traces)
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS), flush=True)
    rows, remarks = [], []
    for path in args.paths:
        found, remark = measure(path, model, sequences, others)
        for row in found:
            cells = [f"{value:.3f}" if isinstance(value, float) else value for value in row.values()]
            cells[2] = f"{row['evaluations']:.1f}"
            print("| " + " | ".join(cells) + " |", flush=True)
        rows += found
        remarks.append(remark)
    length = np.mean([len(sequence.input_ids) for sequence in sequences])
    print("\n" + "\n".join(remarks))
    print(
        f"{len(sequences)} traces of {length:.0f} tokens on average; CPU, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, {time.perf_counter() - began:.0f} s in all."
    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
