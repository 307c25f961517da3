"""`trl-segment sft`: `trl sft`, trained on the selected segments."""

import subprocess
import sys
from dataclasses import dataclass, field, fields

from ..attribution import AttributionConfig
from ..configs import config_of
from ..progress import is_quiet
from ..traces import TraceConfig
from ..trainer.options import SelectiveTrainingConfig
from .arguments import LoadingArguments, StreamingDatasetArguments
from .data import check_readings, load_splits, trace_reader
from .errors import UserError
from .options import Command, Group, Names
from .output import note
from .start import start


@dataclass
class DryRunArguments:
    """
    Arguments of `trl-segment sft` besides those of `trl sft` and of [`~trl_segment.SegmentSelectiveSFTConfig`].

    Parameters:
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print the plan of the run and a cost estimate, and stop. No weight is loaded.
    """

    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run and a cost estimate, and stop."})


# What most runs set of TRL's options, and of the dataset's
_OFTEN_SET = (
    "output_dir",
    "max_length",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "activation_checkpointing",
    "bf16",
    "packing",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "eval_strategy",
    "dataset_test_split",
    "logging_steps",
    "save_strategy",
    "report_to",
    "push_to_hub",
)

COMMAND = Command(
    "sft",
    "Fine-tune on the selected segments. Options of `trl sft` and of `accelerate launch` are taken too.",
    # TRL's classes take seconds to import, so they are named here
    (
        Group("dataset", "trl:ScriptArguments"),
        Group(
            "segment selection",
            "trl_segment.trainer:SegmentSelectiveSFTConfig",
            inherited=("training, as in `trl sft`", "trl:SFTConfig"),
        ),
        Group("model", "trl:ModelConfig"),
        Group("dataset mixture", "trl:DatasetMixtureConfig"),
        Group("run", DryRunArguments),
    ),
    examples=(
        "trl-segment sft --model_name_or_path MODEL --dataset_name traces.jsonl --attributions scores "
        "--output_dir out --max_length 16384",
        "trl-segment sft --model_name_or_path MODEL --dataset_name traces.jsonl --output_dir out --max_length 16384 "
        "--use_peft --num_processes 8",
    ),
    shown=(
        Group("dataset", StreamingDatasetArguments),
        Group("segment selection", SelectiveTrainingConfig, without=("seed",)),
        Group("model", LoadingArguments),
        Group("run", DryRunArguments),
        Names(
            "training and LoRA as in `trl sft`, of which --help-all (it takes seconds) explains every option",
            _OFTEN_SET,
        ),
    ),
)


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
    parser = start(COMMAND, argv)
    *configs, from_file, from_line = parser.parse_known(argv)
    _check(parser, *configs)
    if from_file or from_line:
        _launch(parser, configs, argv, from_file, from_line)
    else:
        _run(parser, *configs)


def _main_of_process(argv: list[str]) -> None:
    """In a process that `accelerate launch` or `torchrun` has started."""
    parser = start(COMMAND, argv)
    *configs, _, from_line = parser.parse_known(argv)
    # Options that the launcher took from the file of --config still stand in it
    parser.refuse_unknown(from_line)
    _check(parser, *configs)
    _run(parser, *configs)


def _launch(parser, configs, argv, from_file, from_line):
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    from .dry_run import plan_sft

    launcher = launch_command_parser()
    parser.refuse_unknown([*from_file, *from_line], ["--accelerate_config", *launcher._option_string_actions])
    words = resolve_accelerate_config_argument([*from_file, *from_line])
    script_args, training_args, model_args, mixture, run_args = configs
    if run_args.dry_run:
        asked = launcher.parse_args([*words, "script"]).num_processes
        plan_sft(_load(script_args, mixture)[0], training_args, model_args, devices=asked or 1)
        return
    shown = [*(["--quiet"] if is_quiet() else []), *(["--traceback"] if "--traceback" in sys.argv else [])]
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
        from trl.scripts.utils import get_dataset

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


def _run(parser, script_args, training_args, model_args, mixture, run_args) -> None:
    from ..models import process_state
    from .dry_run import plan_sft

    if not run_args.dry_run:
        _train(parser, script_args, training_args, model_args, mixture)
    elif (state := process_state()).is_main_process:
        plan_sft(_load(script_args, mixture)[0], training_args, model_args, devices=state.num_processes)


def _train(parser, script_args, training_args, model_args, mixture) -> None:
    import torch
    from transformers import PrinterCallback
    from trl import get_peft_config, get_quantization_config

    from ..trainer import SegmentSelectiveSFTTrainer

    if not torch.accelerator.is_available() and "dataloader_pin_memory" not in parser.given:
        # Nothing can be pinned, of which torch would warn
        training_args.dataloader_pin_memory = False
    training_args.disable_tqdm = training_args.disable_tqdm or is_quiet()
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
    if is_quiet():
        # It prints what the bar would show; `report_to` and trainer_state.json have it too
        trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    main_process = trainer.accelerator.is_main_process
    if main_process:
        note(f"Model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        if main_process:
            note(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}")
    trainer.end()


if __name__ == "__main__":
    from .main import run

    run("sft", _main_of_process)
