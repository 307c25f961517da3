"""
Models whose parameters are spread over processes: DeepSpeed ZeRO-3 and FSDP2.

Each pass over such a model is a sequence of collectives, so every process must make the same kind of pass at the same
time, whatever trace it is at and however many it has. Passes go through the model itself, never through DeepSpeed's
engine, whose backward pass would take part in training.
"""

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from .process import process_state


class Pass(enum.IntEnum):
    """What a process is about to do, from least to most: the more includes the less."""

    NOTHING = 0
    FORWARD = 1
    GRADIENT = 2
    CHECKPOINTED_GRADIENT = 3


def is_zero3(parameter: torch.Tensor) -> bool:
    """Whether DeepSpeed has partitioned a parameter."""
    return hasattr(parameter, "ds_id")


def is_dtensor(parameter: torch.Tensor) -> bool:
    """Whether a parameter is spread over a mesh of devices, as FSDP2 does."""
    return hasattr(parameter, "device_mesh") and hasattr(parameter, "full_tensor")


def fsdp_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules of a model that FSDP2 shards, the model itself first."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def check_sharding(model: torch.nn.Module) -> None:
    """
    Refuse a model that is sharded in a way that attribution cannot see through.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model.

    Raises:
        `NotImplementedError`: If FSDP1 has wrapped modules of it.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise NotImplementedError(
            "FSDP1 flattens the parameters of a model, which cannot be attributed. Set `fsdp_version: 2` in the "
            "accelerate config, or make the attributions first with `trl-segment attribute` and pass their folder as "
            "`attributions`."
        )


def is_sharded(model: torch.nn.Module) -> bool:
    """
    Whether a forward pass of a model needs the other processes.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model.

    Returns:
        `bool`: Whether its parameters are spread over processes.
    """
    return bool(fsdp_modules(model)) or any(is_zero3(parameter) for parameter in model.parameters())


@contextmanager
def gathered(parameter: torch.nn.Parameter) -> Iterator[torch.Tensor]:
    """
    The whole of a parameter, on every process, while the context lasts. All processes must enter it.

    Args:
        parameter (`torch.nn.Parameter`):
            A parameter, sharded or not.
    """
    if is_zero3(parameter):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield parameter.detach()
    elif is_dtensor(parameter):
        # With parameters offloaded to the CPU, the collectives are still the device's
        yield parameter.detach().to(parameter.device_mesh.device_type).full_tensor()
    else:
        yield parameter.detach()


class Lockstep:
    """
    Keeps the processes that share a model's parameters at the same kind of pass.

    Before each pass the processes tell each other what they are about to do, and all do the most that one of them
    needs: a process that wants only a forward pass makes an unneeded backward pass too where another wants a gradient,
    and one that has nothing left to do runs along over two tokens ([`~trl_segment.models.passes.wait_for_others`]).
    What a process gets out of its own passes does not depend on the others. For a model that is not sharded all this
    does nothing.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Unwrapped model. All processes must make their lockstep at the same time.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.active = is_sharded(model)
        self._sharded_by_fsdp = fsdp_modules(model)
        if self._sharded_by_fsdp:
            # FSDP2 settles at the first forward pass in which precision it reduces gradients, by the parameters that
            # require them. That pass must not be one of ours, where none does.
            with torch.no_grad():
                model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=process_state().device), use_cache=False)

    def agree(self, wanted: Pass) -> Pass:
        """
        Tell the other processes what this one is about to do.

        Args:
            wanted ([`Pass`]):
                What it needs.

        Returns:
            [`Pass`]: What all of them do now.
        """
        if not self.active:
            return wanted
        most = torch.tensor(int(wanted), device=process_state().device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        # FSDP2 leaves some parameters whole after a pass. A process that begins with another trace has given them back
        # and one that waits has not: then only the first would gather them, for ever.
        for module in self._sharded_by_fsdp:
            module.reshard()
        return Pass(int(most))
