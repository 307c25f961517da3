"""`trl-segment sft`: `trl sft`, trained on the selected segments."""

import sys
from dataclasses import dataclass, field, fields

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

from ..attribution.loading import process_state
from ..trainer import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from .data import load_splits
from .dry_run import plan_sft


@dataclass
class DryRunArguments:
    """
    What `trl-segment sft` takes besides the arguments of `trl sft` and of [`~trl_segment.SegmentSelectiveSFTConfig`].

    Parameters:
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print what would be done and a cost estimate, and stop. No weight is loaded.
    """

    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and a cost estimate, and stop."})


def main(argv: list[str] | None = None) -> None:
    """
    Run the command. With arguments of `accelerate launch` (`--num_processes`, `--accelerate_config`, ...) it is
    started through it, as `trl sft` is, else in this process.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"--dry_run", "--dry-run"} & set(argv):
        argv = [*argv, "--use_cpu"]  # where one looks before a job starts there is often no GPU, which bf16 asks for
    parser = _make_parser()
    *configs, from_file, from_line = parser.parse_args_and_config(
        argv, return_remaining_strings=True, separate_remaining_strings=True
    )
    if from_file or from_line:
        from accelerate.commands.launch import launch_command, launch_command_parser

        launch_args = resolve_accelerate_config_argument([*from_file, *from_line])
        if configs[-1].dry_run:
            asked = launch_command_parser().parse_args([*launch_args, "script"]).num_processes
            plan_sft(*configs[:-1], devices=asked or 1)
            return
        command = [*launch_args, "--module", "trl_segment.cli.sft", *_without(argv, from_line)]
        launch_command(launch_command_parser().parse_args(command))
    else:
        _run(parser, *configs)


def _make_parser() -> TrlParser:
    parser = TrlParser(
        (ScriptArguments, SegmentSelectiveSFTConfig, ModelConfig, DatasetMixtureConfig, DryRunArguments),
        prog="trl-segment sft",
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


def _run(parser, script_args, training_args, model_args, dataset_args, dry_run_args) -> None:
    if not model_args.model_name_or_path:
        parser.error("--model_name_or_path is required: the model to train")
    if not dry_run_args.dry_run:
        _train(script_args, training_args, model_args, dataset_args)
    elif process_state().is_main_process:
        plan_sft(script_args, training_args, model_args, dataset_args, devices=process_state().num_processes)


def _train(script_args, training_args, model_args, dataset_args) -> None:
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
    _run(_make_parser(), *_make_parser().parse_args_and_config(fail_with_unknown_args=False))
