"""
Many traces: does time per trace, or memory, grow with their number?

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--sizes 2000 20000 200000]    # about ten minutes
    OMP_NUM_THREADS=1 python benchmarks/scale.py --long 65536                   # one long trace: does it run?

Synthetic traces of 20 segments go the whole way: read and cut, tokenized, scored by a stub that runs no model, stored,
moved into the store's final files, selected by the table that the collator reads, and put into batches of 8 by the
collator. A process of its own for each number of traces, so that its peak of resident memory is that number's alone;
0.5 GiB of it are the libraries. Columns are microseconds of CPU time per trace and step.

`resumed` is a second run over a finished store, `table_mib` the table and the names and keys beside it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


CHECKPOINT = Path(__file__).resolve().parents[1] / "examples" / "tiny_world" / "checkpoint"
SEGMENTS = 20
COLUMNS = (
    *("traces", "attributed", "compacted", "opened", "resumed", "selected", "collated", "wall_s", "peak_gib"),
    *("store_mib", "table_mib"),
)


def make_row(number):
    """A row of 20 segments, like no other."""
    steps = [f"The number is {number}, and it has a step {i} of {number % 97} more." for i in range(SEGMENTS)]
    text = "\n\n".join(f"{'Wait, ' if i else ''}{step}" for i, step in enumerate(steps))
    return {"id": str(number), "question": f"{number}?", "solution": f"<think>{text}</think>", "answer": str(number)}


def define_stub():
    """A scorer `"stub"` that runs no model: numbers out of thin air, the same ones every time."""
    from trl_segment.attribution import Attribution, Scorer
    from trl_segment.selection import sum_over_segments

    class Stub(Scorer):
        name = "stub"
        token_attributions = True

        def attribute(self, input_ids, target, segments):
            tokens = np.random.default_rng(len(input_ids)).normal(size=target[1])
            scores = sum_over_segments(tokens, segments)
            return Attribution(scores, -1.0, tokens, f_baseline=-9.0, stopped_by="stub", defect=0.0)


def measure(count, folder):
    """A row of the table for `count` traces."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from trl_segment.attribution import AttributionConfig, attribute_traces, attribution_settings
    from trl_segment.selection import SelectionConfig
    from trl_segment.store import AttributionStore
    from trl_segment.traces import build_trace
    from trl_segment.trainer import DataCollatorForSegmentSelectiveLM, SegmentTable

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    define_stub()
    config = AttributionConfig(attribution_scorer="stub")
    settings = attribution_settings(model, tokenizer, config)
    result, started = {"traces": count}, time.perf_counter()
    clock = time.process_time()

    def note(step):
        nonlocal clock
        now = time.process_time()
        result[step] = round((now - clock) / count * 1e6, 1)
        clock = now

    def traces():
        return ((str(i), build_trace(make_row(i))) for i in range(count))

    store = AttributionStore(folder, settings)
    summary = attribute_traces(traces(), model, tokenizer, config, store, total=count, progress=False)
    assert summary.attributed == count and not summary.skipped, summary
    note("attributed")
    store.compact()
    note("compacted")
    store = AttributionStore(folder, settings)
    note("opened")
    summary = attribute_traces(traces(), model, tokenizer, config, store, total=count, progress=False)
    assert summary.reused == count
    note("resumed")

    # As dataset preparation makes it: from columns in a memory-mapped file
    def describe():
        for i in range(count):
            yield {"key": build_trace(make_row(i)).key, "name": str(i), "num_segments": SEGMENTS, "problem": None}

    columns = Dataset.from_generator(describe, cache_dir=str(folder / "described")).with_format("arrow")[:]
    table = SegmentTable(*(columns[name] for name in ("key", "name", "num_segments", "problem")))
    clock = time.process_time()
    selected = table.fill(store, SelectionConfig())
    assert selected.segments == SEGMENTS * count > selected.kept_segments > 0
    note("selected")
    collator = DataCollatorForSegmentSelectiveLM(DataCollatorForLanguageModeling(pad_token_id=0), table.trained)
    units = np.repeat(np.arange(1, 1 + 2 * SEGMENTS), 5)
    ids = np.full(len(units), 7)
    seen = np.zeros(4, dtype=np.int64)
    for first in range(0, count, 8):
        batch = [
            {"input_ids": ids, "labels": ids, "segment_units": units + table.offsets[i]}
            for i in range(first, min(first + 8, count))
        ]
        seen += collator(batch)["segment_counts"].numpy()[0]
    assert seen[3] == SEGMENTS * count and seen[2] == selected.kept_segments
    note("collated")
    columns = (table.keys.column, table.names.column, table.problems.column)
    size = table.trained.nbytes + table.offsets.nbytes + table.num_segments.nbytes + sum(c.nbytes for c in columns)
    files = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return {
        **result,
        "wall_s": round(time.perf_counter() - started),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "store_mib": round(files / 2**20, 1),
        "table_mib": round(size / 2**20, 1),
    }


def measure_long(tokens):
    """Attribute one trace of that many tokens with a narrow model of one layer, and say what it took."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from trl_segment.attribution import AttributionConfig, attribute_traces, attribution_settings
    from trl_segment.attribution.cost import activation_bytes
    from trl_segment.store import AttributionStore
    from trl_segment.traces import attributed_sequence, build_trace

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    config = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=1, attribution_max_tokens=16384)
    step = "\n\nWait, the number is 17, and it has a step of 3 more."
    one, two = (len(tokenizer(step * n)["input_ids"]) for n in (1, 2))
    row = {"question": "17?", "solution": f"<think>The number is 17.{step * (tokens // (two - one))}", "answer": "17"}
    trace = build_trace(row)
    length = len(attributed_sequence(trace, tokenizer).input_ids)
    model_config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=2 * tokens, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(model_config)
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        store = AttributionStore(folder, attribution_settings(model, tokenizer, config))
        summary = attribute_traces([("long", trace)], model, tokenizer, config, store, progress=False)
        assert summary.attributed == 1, summary
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    kept = float(activation_bytes(model_config, length, 4, checkpointing=True)) / 2**30
    print(
        f"One trace of {length:,} tokens and {len(trace.segments):,} segments, with checkpointing: "
        f"{time.process_time() - clock:.0f} s of CPU time for {summary.evaluations} evaluation, {peak:.2f} GiB on top "
        f"of {before / 2**20:.2f}, of which {kept:.2f} are activations by the formula"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--json", help="file to write the rows to")
    parser.add_argument("--measure", type=int, help="for this script itself: one number of traces, in this process")
    parser.add_argument("--long", type=int, help="instead: attribute one trace of this many tokens")
    args = parser.parse_args()
    if args.long:
        return measure_long(args.long)
    if args.measure:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(args.measure, Path(folder))))
        return
    rows = []
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    for size in args.sizes:
        command = [sys.executable, __file__, "--measure", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"| {' | '.join(f'{rows[-1][name]:,}' for name in COLUMNS)} |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
