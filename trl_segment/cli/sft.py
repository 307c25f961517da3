"""`trl-segment sft`: `trl sft`, trained on the selected segments."""

import subprocess
import sys
from dataclasses import dataclass, field, fields

from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, get_peft_config, get_quantization_config
from trl.cli.accelerate_config import resolve_accelerate_config_argument
from trl.scripts.utils import get_dataset

from ..attribution import AttributionConfig
from ..configs import config_of
from ..models import process_state
from ..traces import TraceConfig
from ..trainer import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from .data import check_readings, load_splits, trace_reader
from .dry_run import plan_sft
from .errors import UserError
from .output import say
from .parser import CommandParser, Group


@dataclass
class DryRunArguments:
    """
    Arguments of `trl-segment sft` besides those of `trl sft` and of [`~trl_segment.SegmentSelectiveSFTConfig`].

    Parameters:
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print the plan of the run and a cost estimate, and stop. No weight is loaded.
    """

    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run and a cost estimate, and stop."})


def make_parser() -> CommandParser:
    """The command's parser: every option of `trl sft`, and those of the selection under a heading of their own."""
    parser = CommandParser(
        "sft",
        "Fine-tune on the selected segments. Options of `accelerate launch` are taken too.",
        Group("dataset", ScriptArguments),
        Group("segment selection", SegmentSelectiveSFTConfig),
        Group("model", ModelConfig),
        Group("dataset mixture", DatasetMixtureConfig),
        Group("run", DryRunArguments),
    )
    parser.move({entry.name for entry in fields(SFTConfig)}, "training, as in `trl sft`")
    return parser


def main(argv: list[str] | None = None) -> None:
    """
    Run the command. With arguments of `accelerate launch` (`--num_processes`, `--accelerate_config`, ...) it is
    started through it, as `trl sft` is, else in this process.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--dry_run", "--dry-run"} & set(argv):
        # A dry run is often made where there is no GPU, without which bf16 is refused
        argv = [*argv, "--use_cpu"]
    parser = make_parser()
    *configs, from_file, from_line = parser.parse_known(argv)
    _check(parser, *configs)
    if from_file or from_line:
        _launch(parser, configs, argv, from_file, from_line)
    else:
        _run(*configs)


def _main_of_process(argv: list[str]) -> None:
    """In a process that `accelerate launch` or `torchrun` has started."""
    parser = make_parser()
    *configs, _, from_line = parser.parse_known(argv)
    # Options that the launcher took from the file of --config still stand in it
    parser.refuse_unknown(from_line)
    _check(parser, *configs)
    _run(*configs)


def _launch(parser, configs, argv, from_file, from_line):
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    launcher = launch_command_parser()
    parser.refuse_unknown([*from_file, *from_line], ["--accelerate_config", *launcher._option_string_actions])
    words = resolve_accelerate_config_argument([*from_file, *from_line])
    script_args, training_args, model_args, mixture, run_args = configs
    if run_args.dry_run:
        asked = launcher.parse_args([*words, "script"]).num_processes
        plan_sft(_load(script_args, mixture)[0], training_args, model_args, devices=asked or 1)
        return
    shown = ["--traceback"] if "--traceback" in sys.argv else []
    command = [*words, "--module", "trl_segment.cli.sft", *_without(argv, from_line), *shown]
    try:
        launch_command(launcher.parse_args(command))
    except (subprocess.CalledProcessError, ChildFailedError) as error:
        # The process itself has printed the error
        raise SystemExit(getattr(error, "returncode", 1)) from error


def _without(argv, taken):
    """`argv` without the arguments in `taken`, which stand in it in this order."""
    left, taken = [], list(taken)
    for argument in argv:
        if taken and argument == taken[0]:
            taken.pop(0)
        else:
            left.append(argument)
    return left


def _check(parser, script_args, args, model_args, mixture, run_args) -> None:
    """Refuse runs that cannot work, and options that have no effect beside others."""
    parser.require("model_name_or_path", model_args.model_name_or_path, "the model to train")
    attribution = {entry.name for entry in fields(AttributionConfig)} - {entry.name for entry in fields(TraceConfig)}
    if args.attributions is not None and args.reattribute_every_epochs is None:
        parser.refuse(
            {*attribution, "attribution_model", "attribution_dtype", "attribution_adapter"},
            "beside --attributions: the scores of that store are used, and nothing is attributed",
        )
    if args.attribution_model is not None:
        parser.refuse({"attribution_adapter"}, "beside --attribution_model: another model attributes")
    if args.dropped_segments != "weight":
        parser.refuse({"dropped_weight", "kept_weight"}, "without --dropped_segments weight")
    if mixture.datasets:
        parser.refuse({"dataset_name", "dataset_config", "dataset_streaming"}, "beside a mixture of `datasets`")


def _load(script_args, mixture, evaluated: bool = False):
    """Training set, and evaluation set if there is one."""
    if mixture.datasets:
        splits = get_dataset(mixture)
    else:
        splits = load_splits(
            script_args.dataset_name,
            script_args.dataset_config,
            script_args.dataset_train_split,
            script_args.dataset_streaming,
        )
    wanted = {"dataset_train_split": script_args.dataset_train_split}
    if evaluated:
        wanted["dataset_test_split"] = script_args.dataset_test_split
    for option, split in wanted.items():
        if split not in splits:
            raise UserError(f"the dataset has no split {split!r}, only {', '.join(splits)}. Set --{option}.")
    return splits[script_args.dataset_train_split], splits[script_args.dataset_test_split] if evaluated else None


def _run(script_args, training_args, model_args, mixture, run_args) -> None:
    if not run_args.dry_run:
        _train(script_args, training_args, model_args, mixture)
    elif (state := process_state()).is_main_process:
        plan_sft(_load(script_args, mixture)[0], training_args, model_args, devices=state.num_processes)


def _train(script_args, training_args, model_args, mixture) -> None:
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    train_dataset, eval_dataset = _load(script_args, mixture, training_args.eval_strategy != "no")
    if training_args.selection != "all" and "input_ids" not in (train_dataset.column_names or ()):
        check_readings(
            train_dataset, trace_reader(config_of(TraceConfig, training_args), training_args.dataset_text_field)
        )
    trainer = SegmentSelectiveSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    main_process = trainer.accelerator.is_main_process
    if main_process:
        say(f"Model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        if main_process:
            say(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}")
    trainer.end()


if __name__ == "__main__":
    from .main import run

    run("sft", _main_of_process)
