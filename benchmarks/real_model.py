"""
What attribution costs and how far it can be trusted on a pretrained model: procedures side by side.

    python benchmarks/real_model.py --model FOLDER_OR_NAME --traces FILE [--json FILE]

For the published procedure, the default and alternatives, per trace: gradient evaluations, seconds, completeness gap,
agreement of the two halves of the nodes, and agreement with more midpoints on the path of the reasoning: token
correlation, rank correlation of segment strengths, and Jaccard index of the segments kept by strength alone (no end is
kept for its place, since any agreement would then be good). `--dtypes` compares precisions: each against the first.

Traces are rows in any format that the package reads; those without reasoning or answer are named and left out.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from trl_segment import AttributionConfig, IntegratedGradients, SelectionConfig, TraceConfig, build_trace
from trl_segment.attribution.quadrature import jaccard
from trl_segment.attribution.sequences import sequence_of
from trl_segment.evaluation.tuning import rank_correlation
from trl_segment.models import load_model
from trl_segment.selection import select
from trl_segment.traces import row_name


# Name: path, rule, evaluations (a cap for rules that stop by themselves)
PROCEDURES = {
    "published": ("all", "paper", 50),
    "default": ("reasoning", "hybrid", 32),
    "hybrid, all tokens": ("all", "hybrid", 32),
    "midpoint 16": ("reasoning", "midpoint", 16),
    "midpoint 32": ("reasoning", "midpoint", 32),
    "simpson": ("reasoning", "simpson", 64),
}
# Kept by strength alone: what the attribution says, without the ends that are always trained
BY_STRENGTH = SelectionConfig(beta=1.0, keep_first=0, keep_last=0)


@dataclasses.dataclass
class Measurement:
    """One procedure on one trace."""

    trace: str
    procedure: str
    dtype: str
    evaluations: int
    seconds: float
    gap: float
    l1: float
    variation: float
    halves_correlation: float
    halves_agreement: float
    settled: bool
    token_correlation: float = float("nan")
    rank_correlation: float = float("nan")
    kept_agreement: float = float("nan")


def read_sequences(args, tokenizer, model_config):
    """Name and attributed sequence of the first traces that have one."""
    config = AttributionConfig(segmenter=args.segmenter, segment_pattern=args.segment_pattern)
    found = []
    for index, line in enumerate(Path(args.traces).read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        trace = build_trace(row, TraceConfig(args.segmenter, args.segment_pattern))
        sequence, problem = sequence_of(trace, tokenizer, model_config, config)
        if problem is None and len(sequence.input_ids) > args.max_tokens:
            problem = f"longer than {args.max_tokens:,} tokens"
        if problem is not None:
            print(f"left out: {row_name(row, index)}, {problem}")
            continue
        found.append((row_name(row, index), sequence))
        if len(found) == args.count:
            break
    if not found:
        raise SystemExit("No trace can be attributed.")
    return found


def measure(engine, name, procedure, dtype, sequence):
    """One procedure on one trace, and its result."""
    began = time.perf_counter()
    result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
    seconds = time.perf_counter() - began
    told = result.reliability
    measurement = Measurement(
        name, procedure, dtype, result.evaluations, seconds, told.gap, told.l1, told.variation,
        told.halves_correlation, told.halves_agreement, told.settled,
    )  # fmt: skip
    return measurement, result


def compare(measurement, result, reference):
    """Write the agreement with another result into a measurement."""
    ours, theirs = result.tokens, reference.tokens
    scale = np.sqrt((ours @ ours) * (theirs @ theirs))
    measurement.token_correlation = float(ours @ theirs / scale) if scale > 0 else float("nan")
    measurement.rank_correlation = rank_correlation(result.segments.strength, reference.segments.strength)
    kept = [select(scores.segments, BY_STRENGTH).kept for scores in (result, reference)]
    measurement.kept_agreement = jaccard(*kept)


def run(args) -> list[Measurement]:
    measurements = []
    first_precision = {}
    for dtype in args.dtypes:
        model, tokenizer = load_model(args.model, dtype=dtype)
        sequences = read_sequences(args, tokenizer, model.config)
        engines = {
            name: IntegratedGradients(model, rule=rule, evaluations=evaluations, path=path)
            for name, (path, rule, evaluations) in PROCEDURES.items()
            if name in args.procedures
        }
        for name, sequence in sequences:
            if dtype == args.dtypes[0]:
                finer = IntegratedGradients(model, rule="midpoint", evaluations=args.reference, path="reasoning")
                reference = finer.attribute(sequence.input_ids, sequence.target, sequence.segments)
            for procedure, engine in engines.items():
                measurement, result = measure(engine, name, procedure, dtype, sequence)
                if dtype == args.dtypes[0]:
                    first_precision[name, procedure] = result
                    compare(measurement, result, reference)
                else:  # against the same procedure in the first precision
                    compare(measurement, result, first_precision[name, procedure])
                measurements.append(measurement)
            print(f"{dtype}: {name}, {len(sequence.input_ids):,} tokens", flush=True)
        del model, engines
    return measurements


def print_table(measurements, args) -> None:
    """Means over traces, a row for each procedure and precision."""
    heading = ("procedure", "dtype", "evals", "seconds", "gap", "L1", "halves", "settled", "tokens", "ranks", "kept")
    traces = len({m.trace for m in measurements})
    print(f"\nMeans over {traces} traces. gap: share of the change of F; L1: attributions in units of it;")
    print("halves: correlation of the two halves of the nodes. tokens, ranks, kept: agreement with")
    print(f"{args.reference} midpoints on the path of the reasoning; in another precision, with the first precision.")
    print(("{:<20} {:<9}" + " {:>8}" * 9).format(*heading))
    for dtype in args.dtypes:
        for procedure in args.procedures:
            rows = [m for m in measurements if m.procedure == procedure and m.dtype == dtype]

            def mean(name, rows=rows):
                return np.nanmean([getattr(row, name) for row in rows])

            print(
                f"{procedure:<20} {dtype:<9} {mean('evaluations'):>8.1f} {mean('seconds'):>8.1f} {mean('gap'):>8.2f} "
                f"{mean('l1'):>8.2f} {mean('halves_correlation'):>8.2f} {mean('settled'):>8.0%} "
                f"{mean('token_correlation'):>8.2f} {mean('rank_correlation'):>8.2f} {mean('kept_agreement'):>8.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub name of a causal language model.")
    parser.add_argument("--traces", default=str(Path(__file__).with_name("real_traces.jsonl")), help="JSONL file.")
    parser.add_argument("--count", type=int, default=3, help="So many traces.")
    parser.add_argument("--max_tokens", type=int, default=4096, help="Leave out longer ones.")
    parser.add_argument("--segmenter", default="paragraphs", help="How the traces are cut.")
    parser.add_argument("--segment_pattern", default=None, help="For the segmenter 'regex'.")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="Precisions, the finest first.")
    parser.add_argument("--procedures", nargs="+", default=list(PROCEDURES), choices=list(PROCEDURES))
    parser.add_argument("--reference", type=int, default=64, help="Midpoints of the reference.")
    parser.add_argument("--json", type=Path, default=None, help="File for every measurement.")
    args = parser.parse_args()
    torch.manual_seed(0)
    measurements = run(args)
    print_table(measurements, args)
    if args.json is not None:
        args.json.write_text(json.dumps([dataclasses.asdict(m) for m in measurements], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
