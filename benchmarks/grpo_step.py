r"""
What segment weights cost in GRPO: a step, against GRPOTrainer's. One Markdown table:

    OMP_NUM_THREADS=1 python benchmarks/grpo_step.py [--quick] [--json FILE]

Both trainers begin with the trained model of `examples/tiny_world`, get the same prompts and the same random numbers,
and take turns in one process: a step of one, then the same step of the other, with the order swapped every time. The
weights are equal (1 and 1), so that both make the same completions and the same update, which is checked at every
step, and what is left of the difference is the cost of the scorer. A step is everything from the prompts to the
optimizer: generation, rewards, scorer, forward, backward, AdamW. Completions whose advantage is zero, and those that
are cut off, are not scored: the last row has the task's reward, the others one by which every completion has an
advantage.

On a CPU, seconds are those that the process got, not those of the clock, which on a shared machine are mostly other
processes'. `ratio` is the median of (our seconds / GRPOTrainer's) over these pairs, quartiles beside it. The first row
sets GRPOTrainer against itself: what differs from 1 there is noise. `within a step` needs no second trainer: by the
clock, a step's seconds by the same without the scorer's. `step_ratio` is that of `marginal` where every
completion has an advantage.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path


# See `examples/tiny_world/study.py`
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from trl_segment import SegmentWeightedGRPOConfig, SegmentWeightedGRPOTrainer


EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES / "grpo"))

import tasks  # noqa: E402


_seconds = time.perf_counter if torch.cuda.is_available() else time.process_time
SCORERS = {
    "marginal": {},
    "attention": {"attribution_scorer": "attention", "selection": "attribution"},
}


class Stepper:
    """
    A GRPO trainer that can be made to take one training step at a time.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            Trainer. Its own loop is not used.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        self.batches = iter(trainer.get_train_dataloader())
        # A step's seconds by those that it would have without the scorer
        self.within = []

    def step(self, number):
        """Seconds of one step, and the completions and weights that it ends with."""
        batch = next(self.batches)
        torch.manual_seed(number)
        start, clock = _seconds(), time.perf_counter()
        self.trainer.training_step(self.trainer.model, batch, None)
        self.trainer.optimizer.step()
        self.trainer.model.zero_grad()
        seconds, clock = _seconds() - start, time.perf_counter() - clock
        scorer = self.trainer._metrics["train"].get("segment_weights/seconds", [0.0])[-1]
        self.within.append(clock / (clock - scorer))
        tokens = self.trainer._metrics["train"]["completions/mean_length"][-1]
        checksum = sum(parameter.detach().double().sum().item() for parameter in self.trainer.model.parameters())
        return seconds, (tokens, checksum)


def build(cls, folder, rows, reward, **options):
    config = SegmentWeightedGRPOConfig if issubclass(cls, SegmentWeightedGRPOTrainer) else GRPOConfig
    checkpoint = EXAMPLES / "tiny_world" / "checkpoint"
    args = config(
        str(folder),
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        gradient_checkpointing=False,
        num_generations=8,
        per_device_train_batch_size=8,
        max_completion_length=1000,
        learning_rate=1e-5,
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return Stepper(cls(model, reward, args, train_dataset=rows, processing_class=tokenizer))


def measure(ours, theirs, pairs):
    """Seconds of `pairs` steps of each, taken in turns, after one that does not count."""
    seconds = []
    for number in range(pairs + 1):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        taken = {stepper: stepper.step(number) for stepper in order}
        if taken[ours][1] != taken[theirs][1]:
            raise RuntimeError("The two trainers did not do the same.")
        if number:
            seconds.append((taken[ours][0], taken[theirs][0]))
    return seconds


def summarize(name, seconds, stepper):
    ratios = [ours / theirs for ours, theirs in seconds]
    low, _, high = statistics.quantiles(ratios, n=4)
    metrics = stepper.trainer._metrics["train"]
    scored = [metrics.get(f"segment_weights/rows_{name}", [0.0]) for name in ("weighted", "all_alike")]
    return {
        "measured": name,
        "pairs": len(seconds),
        "grpo_seconds": statistics.median(theirs for _, theirs in seconds),
        "ratio": statistics.median(ratios),
        "quartiles": [low, high],
        "within": statistics.median(stepper.within),
        "tokens": statistics.mean(metrics["completions/mean_length"]),
        "rows_scored": sum(statistics.mean(values) for values in scored),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=12, help="steps of each")
    parser.add_argument("--quick", action="store_true", help="two pairs: does it run?")
    parser.add_argument("--json", help="write the rows and `step_ratio` to this file")
    args = parser.parse_args()
    logging.set_verbosity_error()
    pairs = 2 if args.quick else args.pairs
    rows, right_answer = tasks.tiny_world("repetition", 100, "grpo-benchmark")

    def coin(completions, **kwargs):
        # Half of a group, so that every completion has an advantage
        return [float(number % 2) for number in range(len(completions))]

    found = []
    print("| measured | pairs | GRPOTrainer | rows scored of 8 | tokens | ratio | quartiles | within a step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        measured = [("GRPOTrainer itself", GRPOTrainer, coin, {})]
        for name, options in SCORERS.items():
            measured.append((f"`{name}`, every completion", SegmentWeightedGRPOTrainer, coin, options))
        measured.append(("`marginal`, the task's reward", SegmentWeightedGRPOTrainer, right_answer, {}))
        for name, cls, reward, options in measured:
            equal = {} if cls is GRPOTrainer else {"segment_weight_kept": 1.0, "segment_weight_dropped": 1.0}
            ours = build(cls, folder, rows, reward, **options, **equal)
            row = summarize(name, measure(ours, build(GRPOTrainer, folder, rows, reward), pairs), ours)
            low, high = row["quartiles"]
            scored = "–" if cls is GRPOTrainer else f"{row['rows_scored']:.1f}"
            print(
                f"| {name} | {row['pairs']} | {row['grpo_seconds']:.2f} s | {scored} | {row['tokens']:.0f} | "
                f"{row['ratio']:.3f} | {low:.3f} to {high:.3f} | {row['within']:.3f} |",
                flush=True,
            )
            found.append(row)
    ratio = next(row["ratio"] for row in found if row["measured"] == "`marginal`, every completion")
    print(f"\nstep_ratio {ratio:.3f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"rows": found, "step_ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
