"""
What `test_distributed.py` runs in two processes: training runs and commands in a sharded run on CPU, whose figures the
test compares. `accelerate launch CONFIG sharded_worker.py FOLDER PART...`; each part writes `FOLDER/PART.json`.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import Dataset
from grpo_rows import GROUP, figures_of_grpo
from helpers import make_rows, tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from trl_segment.cli import attribute


datasets.disable_progress_bars()


def start():
    """Processes on CPU as a machine with accelerators would have them: accelerate itself shards nothing on CPU."""
    launched_with = [kind for kind in ("DEEPSPEED", "FSDP") if os.environ.get(f"ACCELERATE_USE_{kind}") == "true"]
    os.environ["ACCELERATE_USE_CPU"] = "false"
    if launched_with == ["DEEPSPEED"]:
        import deepspeed

        # Built by a compiler at its first use, which takes minutes; gloo does without
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    return PartialState(cpu=True)


def forget_last_run():
    """As if this were the first run of the process."""
    AcceleratorState._reset_state()
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    # What makes accelerate take FSDP seriously on CPU
    kind = DistributedType.MULTI_GPU if sharded else DistributedType.MULTI_CPU
    PartialState._shared_state["distributed_type"] = kind


class Watch(TrainerCallback):
    """Notes losses and gradient norms; saves the model's whole weights where re-attribution saw them, or dies."""

    def __init__(self, save_weights=None, die_at=None, by=None):
        self.logs, self.save_weights, self.die_at, self.by = [], save_weights, die_at, by
        self.trainer = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.logs.append((state.global_step, logs["loss"], float(logs["grad_norm"])))

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.save_weights is not None and round(state.epoch) == 1:
            weights = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped)
            if state.is_world_process_zero:
                torch.save(weights, self.save_weights)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.die_at:
            self.by()


class Stopped(Exception):
    pass


def stop():
    raise Stopped


def kill():
    torch.distributed.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def train(output, traces=5, lora=False, watch=None, resume=None, **options):
    """One run of six steps; its figures."""
    forget_last_run()
    tokenizer = tiny_tokenizer()
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 1,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "attribution_evaluations": 13,
        "tau": 0.4,
        "keep_first": 0,
        "keep_last": 0,
        **options,
    }
    args = SegmentSelectiveSFTConfig(
        str(output),
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        bf16=options.get("bf16", False),
        use_cpu=options.pop("bf16", False),  # transformers refuses the one without the other
        gradient_checkpointing=False,
        lr_scheduler_type="constant",
        accelerator_config={"use_configured_state": True},
        **options,
    )
    peft_config = None
    if lora:
        from peft import LoraConfig

        peft_config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    watch = watch or Watch()
    trainer = SegmentSelectiveSFTTrainer(
        tiny_model(tokenizer),
        args,
        train_dataset=Dataset.from_list(make_rows(traces)),
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[],
    )
    watch.trainer = trainer
    trainer.add_callback(watch)
    with contextlib.suppress(Stopped):
        trainer.train(resume_from_checkpoint=resume)
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return {
        "logs": watch.logs,
        "distributed_type": trainer.accelerator.distributed_type.value,
        "zero_stage": plugin.zero_stage if plugin else None,
        "processes": trainer.accelerator.num_processes,
        "sharded": sum(hasattr(p, "ds_id") or hasattr(p, "full_tensor") for p in trainer.model.parameters()),
    }


def undisturbed(folder, traces, **options):
    """A run that attributes, and the same run given what the first one stored."""
    attributed = train(folder / "a", traces, **options)
    given = train(folder / "b", traces, attributions=str(folder / "a" / "_attributions"), **options)
    return {"attributed": attributed, "given": given}


def part_full(folder):
    return undisturbed(folder, 5)


def part_lora(folder):
    # Some of the traces are longer than the budget, and run with recomputed activations
    return undisturbed(folder, 3, lora=True, gradient_accumulation_steps=4, attribution_max_tokens=200)


def part_bf16(folder):
    return undisturbed(folder, 3, bf16=True)


def part_again(folder):
    """Re-attribution in the middle of training that changes no mask, against none."""
    every = {"keep_first": 10**6, "max_steps": 9}
    with_it = train(folder / "a", reattribute_every_epochs=1, watch=Watch(save_weights=folder / "weights.pt"), **every)
    without = train(folder / "b", attributions=str(folder / "a" / "_attributions"), **every)
    return {"attributed": with_it, "given": without}


def part_command(folder):
    forget_last_run()
    model = str(folder.parent / "model")
    attribute.main(
        f"--model_name_or_path {model} --dataset_name {folder.parent / 'traces.jsonl'} --attributions {folder / 'a'} "
        "--attribution_evaluations 13 --dtype float32".split()
    )
    return {}


def part_other(folder):
    """Attribution by another model, which is loaded and sharded when training begins."""
    return train(folder / "a", max_steps=1, attribution_model=str(folder.parent / "model"))


def part_grpo(folder):
    """Each process with its half of every group."""
    forget_last_run()
    configured = {"use_configured_state": True}
    return figures_of_grpo(
        folder, per_device_train_batch_size=GROUP // 2, use_cpu=False, accelerator_config=configured
    )


def checkpointed(folder, resume, by, **options):
    options |= {"traces": 2, "attribution_evaluations": 9, "save_strategy": "steps", "save_steps": 3}
    if resume:
        return train(folder / "killed", resume=True, **options)
    whole = train(folder / "whole", **options)
    train(folder / "killed", watch=Watch(die_at=4, by=by), **options)
    return whole


def part_checkpoint_full(folder):
    return checkpointed(folder, False, stop)


def part_checkpoint_lora(folder):
    return checkpointed(folder, False, stop, lora=True)


def part_resume_full(folder):
    return checkpointed(folder.parent / "checkpoint_full", True, None)


def part_resume_lora(folder):
    return checkpointed(folder.parent / "checkpoint_lora", True, None, lora=True)


def main(folder, *parts):
    # A hang ends with a traceback of every process, before the test gives up
    faulthandler.dump_traceback_later(540, exit=True)
    state = start()
    for part in parts:
        own = Path(folder) / part
        own.mkdir(parents=True, exist_ok=True)
        result = globals()[f"part_{part}"](own)
        if state.is_main_process:
            own.with_suffix(".json").write_text(json.dumps(result))
        state.wait_for_everyone()
    if os.environ.get("SHARDED_WORKER_ENDS") == "killed":
        kill()
    # A process that ends with a living group aborts now and then
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
