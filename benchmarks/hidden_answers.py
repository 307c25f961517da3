"""
What hiding statements of the answer does.

    python benchmarks/hidden_answers.py                                         # the tiny world
    python benchmarks/hidden_answers.py --model MODEL --dataset TRACES.jsonl    # a pretrained model on real traces

In the tiny world: F1 of what a scorer keeps against the useful segments, with statements visible and hidden, on traces
that no constant was chosen on. On real traces: the mean log-probability of the answer, in nats, with all in place,
with statements hidden in two ways, and without any reasoning. The two ways are to replace the tokens, as the package
does, and a mask under which nobody attends to them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_segment.attribution import AttributionConfig
from trl_segment.attribution.runner import make_scorer
from trl_segment.attribution.sequences import sequence_of
from trl_segment.cli.arguments import DatasetArguments
from trl_segment.cli.data import load_train_split
from trl_segment.evaluation.confidence import subset_log_probs
from trl_segment.evaluation.quality import selection_quality
from trl_segment.traces import build_trace, row_name


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
sys.path.insert(0, str(WORLD))

import world  # noqa: E402


def in_the_tiny_world(model, tokenizer, args) -> None:
    print("setting, scorer, statements: F1 for direct steps / all useful, segments kept, log p(answer)")
    for setting in args.settings:
        rows = list(world.make_rows(setting, args.count, "hidden-answers"))
        for name in args.scorers:
            for statements in ("visible", "hidden", "only_first"):
                config = AttributionConfig(attribution_scorer=name, answer_statements=statements)
                scorer, compared, values = make_scorer(model, config), [], []
                for row in rows:
                    sequence, _ = sequence_of(build_trace(row), tokenizer, model.config, config)
                    result = scorer.attribute(sequence.input_ids, sequence.target, sequence.segments)
                    strength = result.segments.strength
                    compared.append((row["roles"], strength >= config.attribution_threshold, strength))
                    values.append(result.f_input)
                direct = selection_quality(compared, world.DIRECT_ROLES, world.INDIRECT_ROLES)
                found = selection_quality(compared, world.USEFUL_ROLES)
                kept = np.mean([kept.sum() for _, kept, _ in compared])
                print(
                    f"{setting}, {name}, {statements}: {direct.f1:.3f} / {found.f1:.3f}, {kept:.1f} of "
                    f"{np.mean([len(kept) for _, kept, _ in compared]):.1f}, {np.mean(values):.2f}",
                    flush=True,
                )


def on_real_traces(model, tokenizer, args) -> None:
    values = []
    rows = load_train_split(DatasetArguments(dataset_name=args.dataset))
    visible, hiding = (AttributionConfig(answer_statements=name) for name in ("visible", "hidden"))
    for index, row in enumerate(rows):
        trace = build_trace(row)
        shown, problem = sequence_of(trace, tokenizer, model.config, visible)
        if problem is not None or len(shown.input_ids) > args.max_tokens:
            continue
        hidden, _ = sequence_of(trace, tokenizer, model.config, hiding)
        size = len(shown.segments)
        sets = np.array([[True] * size, [False] * size])
        full, empty = subset_log_probs(model, shown.input_ids, shown.target, shown.segments, sets)
        replaced, _ = subset_log_probs(model, hidden.input_ids, hidden.target, hidden.segments, sets)
        masked = with_mask(model, shown, hidden.input_ids != shown.input_ids)
        values.append((full, masked, replaced, empty))
        print(
            f"{row_name(row, index)}: {len(shown.input_ids):,} tokens, {hidden.hidden_tokens} hidden; visible "
            f"{full:.2f}, masked {masked:.2f}, replaced {replaced:.2f}, no reasoning {empty:.2f}",
            flush=True,
        )
    full, masked, replaced, empty = np.mean(values, axis=0)
    print(
        f"{len(values)} traces: visible {full:.2f}, masked {masked:.2f}, replaced {replaced:.2f}, no reasoning "
        f"{empty:.2f}; replaced and masked differ by {np.abs(np.diff(np.array(values)[:, 1:3])).mean():.2f} on average"
    )


@torch.no_grad()
def with_mask(model, sequence, hidden) -> float:
    """Log-probability of the answer where no position attends to the hidden ones, whose places stay."""
    ids = torch.as_tensor(sequence.input_ids)[None]
    size = sequence.target[1] - sequence.target[0]
    mask = torch.as_tensor(~hidden)[None].long()
    places = torch.arange(ids.shape[1])[None]
    logits = model(
        input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=places[:, :-1], logits_to_keep=size
    ).logits[0]
    return logits.log_softmax(-1).gather(-1, ids[0, -size:, None]).sum().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(WORLD / "checkpoint"))
    parser.add_argument("--dataset", help="traces; default: those of the tiny world, which are made")
    parser.add_argument("--count", type=int, default=40, help="traces of each setting of the tiny world")
    parser.add_argument("--settings", nargs="+", default=["repetition", "stated"], choices=sorted(world.SETTINGS))
    parser.add_argument("--scorers", nargs="+", default=["marginal", "counterfactual"])
    parser.add_argument("--max_tokens", type=int, default=2000, help="longer traces of --dataset are left out")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    if args.dataset is None:
        in_the_tiny_world(model, tokenizer, args)
    else:
        on_real_traces(model, tokenizer, args)


if __name__ == "__main__":
    main()
