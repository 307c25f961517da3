"""`trl-segment sft`: `trl sft`, trained on the selected segments."""

import sys
from dataclasses import fields

from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)
from trl.cli.accelerate_config import resolve_accelerate_config_argument

from ..trainer import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from .data import load_splits


def main(argv: list[str] | None = None) -> None:
    """
    Run the command. With arguments of `accelerate launch` (`--num_processes`, `--accelerate_config`, ...) it is
    started through it, as `trl sft` is, else in this process.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _make_parser()
    *configs, from_file, from_line = parser.parse_args_and_config(
        argv, return_remaining_strings=True, separate_remaining_strings=True
    )
    if from_file or from_line:
        from accelerate.commands.launch import launch_command, launch_command_parser

        launch_args = resolve_accelerate_config_argument([*from_file, *from_line])
        command = [*launch_args, "--module", "trl_segment.cli.sft", *_without(argv, from_line)]
        launch_command(launch_command_parser().parse_args(command))
    else:
        _train(parser, *configs)


def _make_parser() -> TrlParser:
    parser = TrlParser(
        (ScriptArguments, SegmentSelectiveSFTConfig, ModelConfig, DatasetMixtureConfig), prog="trl-segment sft"
    )
    # A group of the parser's is a whole dataclass, and ours has TRL's options too, so ours move once they are made
    ours = {field.name for field in fields(SegmentSelectiveSFTConfig)} - {field.name for field in fields(SFTConfig)}
    group, others = parser.add_argument_group("segment selection"), parser._optionals
    for action in [action for action in others._group_actions if action.dest in ours]:
        others._group_actions.remove(action)
        group._group_actions.append(action)
    return parser


def _without(argv, taken):
    """`argv` without the arguments in `taken`, which stand in it in this order."""
    left, taken = [], list(taken)
    for argument in argv:
        if taken and argument == taken[0]:
            taken.pop(0)
        else:
            left.append(argument)
    return left


def _train(parser, script_args, training_args, model_args, dataset_args) -> None:
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
    # Started by `accelerate launch` or `torchrun`. What they took from a config file is not ours to refuse.
    _train(_make_parser(), *_make_parser().parse_args_and_config(fail_with_unknown_args=False))
