r"""
What selection costs in training: a step, and the preparation of the data, against SFTTrainer. One Markdown table:

    python benchmarks/training_step.py [--quick] [--json FILE] [--traces FILE --tokenizer PATH]

**Step.** Both trainers get the same rows, the same weights and the same seed, and take turns in one process: a step of
one, then the same step of the other, with the order swapped every time. A step is everything from the data loader to
the optimizer: fetching rows, collation, forward, loss, metrics, backward, AdamW. That both saw the same tokens is
checked at every step. On a CPU, seconds are those that the process got, not those of the clock, which on a shared
machine are mostly other processes'. `ratio` is the median of (our seconds / SFTTrainer's) over these pairs, quartiles
beside it. Each layout is measured with every segment kept, where the work of the model is the same and what is left is
the cost of this package, and with a real selection (attributions of the trained model in `examples/tiny_world`, by two
midpoint evaluations), where fewer tokens have a loss. The first row sets SFTTrainer against itself: what differs from
1 there is noise. `step_ratio` is the highest ratio of the other rows.

The model is a Qwen2 of random weights: hidden width 128, 2 layers, 8,192 tokens of vocabulary. The rows are the 48
traces of `examples/tiny_world`, two a step and cut or packed at 256 tokens, 100 to 250 ms a step on one core. It is
small on purpose: the cost of a selection does not depend on the model, so on a larger one it is a smaller share.

**Preparation**, with `--traces`: question, solution and answer rows, as LIMO has them. Timed is all that becomes of a
dataset inside the constructor, from rows to tokens (and here to the segment of each token); nothing is cached. TRL
gets the same rows already rendered to prompt and completion text, so that both tokenize the same. `preparation_ratio`
is the median of the ratios of repeats that take turns.
"""

import argparse
import copy
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from trl_segment import AttributionConfig, AttributionStore, SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from trl_segment.attribution import attribute_traces, attribution_settings
from trl_segment.traces import TraceConfig
from trl_segment.trainer.rows import TraceReader, question_to_messages, render_verbatim


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
LAYOUTS = {"padded": {}, "packed": {"packing": True}}
# On a CPU its own seconds: on a shared machine those of the clock are mostly other processes'
_seconds = time.perf_counter if torch.cuda.is_available() else time.process_time
# Not `selection="all"`, which leaves the trainer nothing to do
SELECTIONS = {"everything kept": {"keep_first": 10_000}, "a real selection": {"tau": 0.5, "keep_last": 1}}
COMMON = {
    "bf16": False,
    "use_cpu": not torch.cuda.is_available(),
    "report_to": [],
    "activation_checkpointing": False,
    "per_device_train_batch_size": 2,
    "max_length": 256,
    "disable_tqdm": True,
    "learning_rate": 1e-5,
}


def small_model(vocabulary, **config):
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            **config,
        )
    )


def prompt_completion(rows):
    return Dataset.from_list(
        [{"prompt": r["question"], "completion": r["solution"], "answer": r["answer"]} for r in rows]
    )


def build(cls, folder, model, tokenizer, dataset, **options):
    config = SegmentSelectiveSFTConfig if issubclass(cls, SegmentSelectiveSFTTrainer) else SFTConfig
    args = config(str(folder), **{**COMMON, **options})
    return cls(copy.deepcopy(model), args, train_dataset=dataset, processing_class=tokenizer)


class Stepper:
    """
    A trainer that can be made to take one training step at a time.

    Args:
        trainer ([`~trl.SFTTrainer`]):
            Trainer. Its own loop is not used.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self.loader = trainer.get_train_dataloader()
        self.model = trainer.accelerator.prepare_model(trainer.model).train()
        self.epoch, self.left = 0, 0

    def step(self):
        """Take a step; returns its seconds, its tokens and its loss."""
        trainer = self.trainer
        if self.left == 0:
            torch.manual_seed(self.epoch)  # the sampler's, so that two trainers draw the same
            self.batches, self.left, self.epoch = iter(self.loader), len(self.loader), self.epoch + 1
        self.left -= 1
        torch.manual_seed(0)
        start = _seconds()
        (batch,), count = trainer.get_batch_samples(self.batches, 1, trainer.args.device)
        tokens = batch["input_ids"]
        loss = trainer.training_step(self.model, batch, count)
        trainer.optimizer.step()
        self.model.zero_grad()
        loss = loss.item()  # waits for the device
        return _seconds() - start, tokens, loss


def measure_steps(ours, theirs, pairs, same_loss):
    """Seconds of `pairs` steps of each, taken in turns, after a few that do not count."""
    seconds = []
    for index in range(-3, pairs):
        order = (ours, theirs) if index % 2 else (theirs, ours)
        taken = {stepper: stepper.step() for stepper in order}
        if not torch.equal(taken[ours][1], taken[theirs][1]):
            raise RuntimeError("The two trainers did not get the same batch.")
        if same_loss and taken[ours][2] != taken[theirs][2]:
            raise RuntimeError("With everything kept the two losses differ.")
        if index >= 0:
            seconds.append((taken[ours][0], taken[theirs][0]))
    return seconds


def summarize(name, seconds):
    ratios = [ours / theirs for ours, theirs in seconds]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "measured": name,
        "repeats": len(seconds),
        "sft_seconds": statistics.median(theirs for _, theirs in seconds),
        "ratio": statistics.median(ratios),
        "quartiles": [low, high],
    }


def step_rows(pairs, folder):
    rows = [json.loads(line) for line in (WORLD / "traces.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(WORLD / "checkpoint")
    dataset = prompt_completion(rows)
    model = small_model(8192, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)

    def stepper(cls, **options):
        return Stepper(build(cls, folder / "run", model, tokenizer, dataset, **options))

    yield summarize("SFTTrainer itself, padded", measure_steps(stepper(SFTTrainer), stepper(SFTTrainer), pairs, True))
    store = None
    for layout, options in LAYOUTS.items():
        for selection, thresholds in SELECTIONS.items():
            ours = stepper(SegmentSelectiveSFTTrainer, **options, **thresholds)
            if store is None:
                config = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=2)
                trained = AutoModelForCausalLM.from_pretrained(WORLD / "checkpoint")
                store = AttributionStore(folder / "store", attribution_settings(trained, tokenizer, config))
                traces = map(ours.trainer.get_trace, range(len(rows)))
                attribute_traces(traces, trained, tokenizer, config, store, progress=False)
            summary = ours.trainer.segment_table.fill(store, ours.trainer.args)
            kept = summary.kept_tokens / summary.tokens
            same_loss = selection == "everything kept"
            seconds = measure_steps(ours, stepper(SFTTrainer, **options), pairs, same_loss)
            yield summarize(f"{layout}, {selection}" + ("" if same_loss else f" ({kept:.0%} of tokens)"), seconds)


class Timed:
    """Adds up the seconds of what becomes of the training set; steps within steps count once."""

    seconds, depth = 0.0, 0

    def _timed(self, method, *args, **kwargs):
        self.depth += 1
        start = _seconds()
        try:
            return method(*args, **kwargs)
        finally:
            self.depth -= 1
            if self.depth == 0:
                self.seconds += _seconds() - start

    def _prepare_dataset(self, *args, **kwargs):
        return self._timed(super()._prepare_dataset, *args, **kwargs)


class TimedSFTTrainer(Timed, SFTTrainer):
    pass


class TimedSegmentSelectiveSFTTrainer(Timed, SegmentSelectiveSFTTrainer):
    def __setattr__(self, name, value):
        if name == "_preparation":  # questions become messages before TRL's own step
            value.begin = functools.partial(self._timed, value.begin)
        super().__setattr__(name, value)


def preparation_row(traces, tokenizer, repeats, folder):
    columns = ("id", "question", "solution", "answer")
    lines = Path(traces).read_text(encoding="utf-8").splitlines()
    rows = [{name: row[name] for name in columns if name in row} for row in map(json.loads, lines)]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    model = small_model(16)  # not run
    ours = Dataset.from_list(rows)
    options = {"max_length": 16384}
    # As our trainer renders these rows
    reader = TraceReader(TraceConfig(), segmenter=None, answer_func=None, text_column="text", formatting_func=None)
    rendered = [
        render_verbatim(question_to_messages(row, i, reader), i, tokenizer, reader) for i, row in enumerate(rows)
    ]
    theirs = Dataset.from_list(rendered)
    seconds = []
    for index in range(-1, repeats):
        pair = [(TimedSegmentSelectiveSFTTrainer, ours), (TimedSFTTrainer, theirs)]
        trainers = {}
        for cls, dataset in pair if index % 2 else pair[::-1]:
            trainers[cls] = build(cls, folder / "run", model, tokenizer, dataset, **options)
        got, expected = (trainers[cls] for cls, _ in pair)
        if got.train_dataset["input_ids"][:] != expected.train_dataset["input_ids"][:]:
            raise RuntimeError("The two trainers prepared different tokens.")
        if index >= 0:
            seconds.append((got.seconds, expected.seconds))
    return summarize(f"preparation of {len(rows)} traces", seconds)


def print_row(row):
    low, high = row["quartiles"]
    seconds = f"{1000 * row['sft_seconds']:,.0f} ms"
    print(
        f"| {row['measured']} | {row['repeats']} | {seconds} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repeats: does it run?")
    parser.add_argument("--json", help="write the rows, `step_ratio` and `preparation_ratio` to this file")
    parser.add_argument("--traces", help="question, solution and answer rows (.jsonl) to time the preparation with")
    parser.add_argument("--tokenizer", help="tokenizer for them")
    args = parser.parse_args()
    if (args.traces is None) != (args.tokenizer is None):
        parser.error("--traces and --tokenizer go together")
    datasets.disable_caching()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    print("| measured | repeats | SFTTrainer | ratio | quartiles |\n| --- | --- | --- | --- | --- |")
    rows, ratios, preparation_ratio = [], [], None
    with tempfile.TemporaryDirectory() as folder:
        # First what is over soon
        if args.traces:
            rows.append(preparation_row(args.traces, args.tokenizer, 3 if args.quick else 5, Path(folder)))
            preparation_ratio = rows[0]["ratio"]
            print_row(rows[0])
        for row in step_rows(3 if args.quick else 60, Path(folder)):
            rows.append(row)
            ratios.append(row["ratio"])
            print_row(row)
    step_ratio = max(ratios[1:])
    print(f"\nstep_ratio {step_ratio:.3f}")
    if preparation_ratio is not None:
        print(f"preparation_ratio {preparation_ratio:.2f}")
    if args.json:
        result = {"step_ratio": step_ratio, "preparation_ratio": preparation_ratio, "rows": rows}
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
