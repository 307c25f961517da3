"""
How the time of reading a text grows with it, on texts that are made to be slow.

Every reader of foreign text (answers, marks of reasoning, segments, places in a rendered text, normal forms of
answers) reads each hostile text in two lengths, the longer one eight times the other. A linear reader takes about 8
times as long, a quadratic one 64 times. Printed are ratios of CPU time; the worst of a reader counts.

    python benchmarks/linear.py                # up to a million characters, about a minute
    python benchmarks/linear.py --longest 100000
"""

import argparse
import contextlib
import time

from trl_segment.evaluation.comparison import compare_directly
from trl_segment.evaluation.normal_form import plain_answer
from trl_segment.traces import (
    TraceConfig,
    answer_of_field,
    build_trace,
    extract_answer,
    find_reasoning,
    locate_segments,
    segment_text,
)
from trl_segment.traces.marks import split_text
from trl_segment.traces.statements import find_statements


GROWTH = 8
# A piece that is repeated, and what stands behind the repeats
HOSTILE = {
    "unclosed boxes": ("\\boxed{", ""),
    "boxes in boxes": ("\\boxed{", "}" * 1000),
    "boxes side by side": ("\\boxed{1},", ""),
    "boxes with powers": ("$-2\\boxed{1}^2$ ", ""),
    "parts": ("(a) 5 ", ""),
    "quotes": ("['", ""),
    "money": ("$5 and ", ""),
    "units": ("5 km ", ""),
    "inequalities": ("x<", "5"),
    "conclusions": ("Thus $x$ is ", "$5$"),
    "boxes without braces": ("\\boxed\\frac{", ""),
    "braces": ("{", ""),
    "backslashes": ("\\", ""),
    "hashes": ("####\n", ""),
    "hashes and spaces": ("#### ", ""),
    "spaces": (" ", "x"),
    "newlines": ("\n", ""),
    "newlines and spaces": ("\n\n ", ""),
    "windows newlines": ("\r\n", " "),
    "openers": ("\n\nWait", ""),
    "announcements": ("the answer is ", ""),
    "announcements with colons": ("\nAnswer:", ""),
    "bold": ("**", ""),
    "dollars": ("$", ""),
    "opening marks": ("<think>", ""),
    "closing marks": ("</think>", ""),
    "opening marks and spaces": ("<think>   ", ""),
    "messages": ("<think>x</think>\n", ""),
    "turns": ("User: a\nAssistant: b\n<think>", ""),
    "headers": ("\nAssistant: ", ""),
    "tags": ("<answer>", ""),
    "digits": ("9", ""),
    "commas": ("1,", ""),
    "letters": ("A, ", ""),
    "words": ("word ", "!"),
    "roots": ("√(", ""),
    "raised digits": ("²₂", ""),
}


def _locate(text: str) -> None:
    """Places in a text that a template has stripped, where the whole completion is not found as it is."""
    trace = build_trace({"prompt": "p", "completion": f"<think>a{text}b</think> {text} \\boxed{{1}}"})
    with contextlib.suppress(ValueError):  # it is not there, which was to be found out
        locate_segments(f"p<think>{trace.completion[8:].strip()} {text}", trace)


READERS = {
    "extract_answer": extract_answer,
    "answer_of_field": answer_of_field,
    "find_reasoning": find_reasoning,
    "split_text": split_text,
    "segments by keywords": lambda text: segment_text(text, "keywords"),
    "segments by paragraphs": lambda text: segment_text(text, "paragraphs"),
    "build_trace": lambda text: build_trace({"text": f"Q: 1?\nA: {text}", "answer": "5"}, TraceConfig()),
    "locate_segments": _locate,
    "plain_answer": plain_answer,
    "compare_directly": lambda text: compare_directly("5", text),
    "find_statements of a number": lambda text: find_statements(text, "5"),
    "find_statements of parts": lambda text: find_statements(text, "(1, A)"),
}


def seconds(read, text: str) -> float:
    """CPU time of one reading, the best of three unless it is long."""
    times = []
    for _ in range(3):
        began = time.process_time()
        read(text)
        times.append(time.process_time() - began)
        if times[0] > 0.5:
            break
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--longest", type=int, default=1_000_000, help="Characters of the longer text.")
    args = parser.parse_args()
    print(f"Time for {args.longest:,} characters over time for {args.longest // GROWTH:,} (linear: {GROWTH})")
    for reader, read in READERS.items():
        ratios = {}
        for name, (piece, end) in HOSTILE.items():
            texts = [piece * (length // len(piece)) + end for length in (args.longest // GROWTH, args.longest)]
            short, long = (seconds(read, text) for text in texts)
            # What takes no time has no growth
            ratios[name] = long / short if long > 0.02 else 0.0
        worst = max(ratios, key=ratios.__getitem__)
        print(f"  {reader:24} {ratios[worst]:6.1f}  {worst if ratios[worst] else 'nothing takes 20 ms'}", flush=True)


if __name__ == "__main__":
    main()
