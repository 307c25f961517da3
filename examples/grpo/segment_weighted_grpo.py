"""
GRPO in which the segments that led to the answer weigh more, on a task whose answers a program checks.

```bash
python examples/grpo/segment_weighted_grpo.py --task tiny_world:repetition \
    --model_name_or_path examples/tiny_world/checkpoint --output_dir out --max_steps 20 --learning_rate 1e-4 \
    --num_generations 8 --per_device_train_batch_size 8 --max_completion_length 1000 --use_cpu True --bf16 False
```

On several GPUs, with a real model on a task of reasoning-gym (`pip install trl-segment[peft,reasoning_gym]`):

```bash
accelerate launch --config_file examples/accelerate_configs/zero2.yaml examples/grpo/segment_weighted_grpo.py \
    --task reasoning_gym:chain_sum --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --output_dir out \
    --num_generations 8 --per_device_train_batch_size 4 --gradient_accumulation_steps 4 \
    --max_completion_length 8192 --use_vllm --vllm_mode colocate --use_peft --lora_r 32 --learning_rate 1e-5
```
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from trl_segment import SegmentWeightedGRPOConfig, SegmentWeightedGRPOTrainer


sys.path.insert(0, str(Path(__file__).resolve().parent))

import tasks


@dataclass
class TaskArguments:
    """
    What is trained on.

    Args:
        task (`str`, *optional*, defaults to `"tiny_world:repetition"`):
            `tiny_world:SETTING`, or `reasoning_gym:DATASET`.
        num_problems (`int`, *optional*, defaults to `1000`):
            Number of problems.
    """

    task: str = field(
        default="tiny_world:repetition", metadata={"help": "`tiny_world:SETTING` or `reasoning_gym:DATASET`."}
    )
    num_problems: int = field(default=1000, metadata={"help": "Number of problems."})


def main():
    parser = TrlParser((TaskArguments, SegmentWeightedGRPOConfig, ModelConfig))
    task_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    kind, _, name = task_args.task.partition(":")
    if kind == "tiny_world":
        dataset, reward = tasks.tiny_world(name, task_args.num_problems, "grpo")
    elif kind == "reasoning_gym":
        dataset, reward = tasks.reasoning_gym(name, task_args.num_problems, training_args.seed)
    else:
        raise ValueError(
            f"Unknown task {task_args.task!r}. Pass 'tiny_world:SETTING', such as 'tiny_world:repetition', or "
            "'reasoning_gym:DATASET', such as 'reasoning_gym:chain_sum'."
        )
    trainer = SegmentWeightedGRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=reward,
        args=training_args,
        train_dataset=dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()


if __name__ == "__main__":
    main()
