"""
Cut traces and read answers with functions of your own, in place of the options `segmenter` and `answer_column`.

```bash
python examples/own_segments.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name GAIR/LIMO \
    --output_dir Qwen2.5-1.5B-own-segments --max_length 16384
```
"""

import re

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer


def segmenter(reasoning: str) -> list[str]:
    """A segment per numbered step or blank line. Joined, the segments must be the reasoning again."""
    return [piece for piece in re.split(r"(?<=\n\n)|(?=Step \d+:)", reasoning) if piece]


def answer_func(row: dict) -> str | None:
    """The answer without dollars and units. `None` trains the trace in full."""
    return re.sub(r"\$|\\text\{[^}]*\}", "", row["answer"]).strip() or None


def main():
    parser = TrlParser((ScriptArguments, SegmentSelectiveSFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {"dtype": model_args.dtype}
    dataset = load_dataset(script_args.dataset_name, split=script_args.dataset_train_split)
    trainer = SegmentSelectiveSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset,
        segmenter=segmenter,
        answer_func=answer_func,
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)


if __name__ == "__main__":
    main()
