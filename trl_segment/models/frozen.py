"""The state that a model is in while it is attributed: frozen, in evaluation mode, and afterwards as it was."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from .sharding import fsdp_modules


@contextmanager
def frozen_mode(model: torch.nn.Module) -> Iterator[None]:
    """
    Freeze all parameters and switch to evaluation mode; on leaving, everything is as before.

    Args:
        model (`torch.nn.Module`):
            Model to attribute with.

    Raises:
        `ValueError`: If it is a 4-bit model whose gradients bitsandbytes has given up on CPU.
    """
    # What FSDP2 leaves unsharded after a forward pass are other tensors than those that hold `requires_grad`
    sharded = fsdp_modules(model)
    for module in sharded:
        module.reshard()
    modes = [(module, module.training) for module in model.modules()]
    repacking = [module for module in model.modules() if getattr(module, "support_avx512bf16_for_cpu", False)]
    for module in repacking:
        # bitsandbytes packs 4-bit weights anew at the first forward pass without gradients, for a CPU kernel that
        # has no backward pass: attributions would silently come out as zero
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ValueError(
                "This 4-bit model has run without gradients on CPU, for which bitsandbytes packed its weights for "
                "good in a format without gradients. Load it again and attribute before anything else."
            )
        module.support_avx512bf16_for_cpu = False
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
        for module in repacking:
            module.support_avx512bf16_for_cpu = True
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a model that can be recomputed, or compiled, one by one, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def checkpointing(model: torch.nn.Module, count: int | None = None) -> Iterator[None]:
    """
    Recompute activations layer by layer in the backward pass, in evaluation mode.

    The models' own switch acts in training mode only, where dropout would act too.

    Args:
        model (`torch.nn.Module`):
            Model whose [`~transformers.modeling_layers.GradientCheckpointingLayer`]s are wrapped meanwhile.
        count (`int`, *optional*):
            So many layers, from the first on. Defaults to all.
    """
    layers = decoder_layers(model)[:count]
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
