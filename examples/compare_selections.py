"""
Train on what attribution keeps, on as many segments drawn at random, and on everything, from one store of scores.

```bash
python examples/compare_selections.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name GAIR/LIMO \
    --output_dir comparison --max_length 16384
```

Every run starts from the same model and sees the same batches, so what differs is the selection.
"""

import dataclasses
import os

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer


def main():
    parser = TrlParser((ScriptArguments, SegmentSelectiveSFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {"dtype": model_args.dtype}
    dataset = load_dataset(script_args.dataset_name, split=script_args.dataset_train_split)
    store = training_args.attributions
    # "threshold" is for scorers of another unit
    for selection in ("attribution", "random", "all"):
        output_dir = os.path.join(training_args.output_dir, selection)
        trainer = SegmentSelectiveSFTTrainer(
            model=model_args.model_name_or_path,
            args=dataclasses.replace(training_args, output_dir=output_dir, selection=selection, attributions=store),
            train_dataset=dataset,
        )
        trainer.train()
        trainer.save_model(output_dir)
        # The first run attributes, the others read what it stored
        store = trainer.attributions


if __name__ == "__main__":
    main()
