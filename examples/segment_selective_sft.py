"""
Fine-tune on the segments of reasoning traces that matter to the answer.

```bash
python examples/segment_selective_sft.py \
    --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
    --dataset_name GAIR/LIMO \
    --output_dir R1-1.5B-segment-selective \
    --learning_rate 3e-5 --lr_scheduler_type cosine --warmup_steps 0.05 --num_train_epochs 9 \
    --per_device_train_batch_size 2 --max_length 16384 --optim adamw_8bit
```

On several GPUs put `accelerate launch` in front. With LoRA add `--use_peft --lora_r 32 --learning_rate 2e-4`.
"""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer


def main():
    parser = TrlParser((ScriptArguments, SegmentSelectiveSFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    trainer = SegmentSelectiveSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.end()


if __name__ == "__main__":
    main()
