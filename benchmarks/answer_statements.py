"""
How often, and how early, reasoning states its answer.

A statement inside the reasoning is enough to read the answer from, so that a rule which asks what the answer needs
finds nothing else. Text alone is read, no model is loaded.

    python benchmarks/answer_statements.py examples/tiny_world/traces.jsonl
    python benchmarks/answer_statements.py TRACES.jsonl --segmenter paragraphs --rows
"""

import argparse
import statistics

from trl_segment.cli.arguments import DatasetArguments
from trl_segment.cli.data import load_train_split
from trl_segment.traces import TraceConfig, build_trace, row_name
from trl_segment.traces.statements import find_statements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="file or Hub name")
    parser.add_argument("--segmenter", default="keywords")
    parser.add_argument("--rows", action="store_true", help="one line for each trace")
    args = parser.parse_args()
    config = TraceConfig(segmenter=args.segmenter)
    rows = load_train_split(DatasetArguments(dataset_name=args.dataset))
    total, unread, firsts, shares, counts = 0, 0, [], [], []
    for index, row in enumerate(rows):
        trace = build_trace(row, config)
        if trace.problem is not None or trace.answer is None:
            unread += 1
            continue
        total += 1
        start, end = trace.reasoning
        found = find_statements(trace.completion[start:end], trace.answer)
        if not found:
            continue
        stating = [any(a <= start + place < b for place, _ in found) for a, b in trace.segments]
        firsts.append(found[0][0] / (end - start))
        shares.append(sum(stating) / len(stating))
        counts.append(len(found))
        if args.rows:
            print(
                f"{row_name(row, index)}: {len(found)} times, first after {firsts[-1]:.0%} of the text, in "
                f"{sum(stating)} of {len(stating)} segments"
            )
    print(
        f"{len(firsts)} of {total} traces state their answer in the reasoning ({unread} more have no readable answer)."
    )
    if firsts:
        print(
            f"Of these, medians: {statistics.median(counts):g} times, in {statistics.median(shares):.0%} of the "
            f"segments, first after {statistics.median(firsts):.0%} of the text "
            f"(in {sum(first < 0.5 for first in firsts)} traces in its first half)."
        )


if __name__ == "__main__":
    main()
