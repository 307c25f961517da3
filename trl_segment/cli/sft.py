"""`trl-segment sft`: `trl sft`, trained on the selected segments."""

from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)

from ..trainer import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from .data import load_splits


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser(
        (ScriptArguments, SegmentSelectiveSFTConfig, ModelConfig, DatasetMixtureConfig), prog="trl-segment sft"
    )
    script_args, training_args, model_args, dataset_args = parser.parse_args_and_config(argv)
    if not model_args.model_name_or_path:
        parser.error("--model_name_or_path is required: the model to train")
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    dataset = load_splits(script_args, dataset_args)
    evaluated = training_args.eval_strategy != "no"
    trainer = SegmentSelectiveSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if evaluated else None,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}")
    trainer.end()


if __name__ == "__main__":
    main()
