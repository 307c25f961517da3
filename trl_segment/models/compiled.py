"""Decoder layers through `torch.compile`, one by one: a model of many equal layers compiles one of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .frozen import decoder_layers
from .inspection import unwrap_adapter
from .sharding import is_sharded


# Compiling takes about a minute, and saves about a second a trace on an H100 (1.5B, 8k tokens, 20 evaluations)
_FEWEST_TRACES = 64


def should_compile(model: torch.nn.Module, asked: bool | None, traces: int | None) -> bool:
    """
    Whether to compile a model's layers.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model.
        asked (`bool` or `None`):
            What the user says. `None` compiles where it is likely to save more time than it takes: for at least 64
            traces, or an unknown number, on CUDA, over a model whose layers are neither quantized nor sharded.
        traces (`int` or `None`):
            Traces to come, `None` if that is not known.

    Returns:
        `bool`: Whether to.

    Raises:
        `ValueError`: If compilation is asked for and the model is spread over processes.
    """
    if asked is not None:
        if asked and is_sharded(model):
            raise ValueError(
                "`attribution_compile` cannot be used on a model whose parameters are spread over processes (ZeRO-3, "
                "FSDP2): its layers gather them as they run. Leave the option out."
            )
        return asked
    device = model.get_input_embeddings().weight.device
    quantized = getattr(unwrap_adapter(model), "hf_quantizer", None) is not None
    many = traces is None or traces >= _FEWEST_TRACES
    return many and device.type == "cuda" and not quantized and not is_sharded(model)


class CompiledLayers:
    """
    The decoder layers of a model, compiled until [`~CompiledLayers.undo`] is called.

    Args:
        model (`torch.nn.Module`):
            Model. Its layers compile at their first pass, once for sequences of any length.
    """

    def __init__(self, model: torch.nn.Module):
        self._layers = decoder_layers(model)
        self._own = [layer.__dict__.get("forward") for layer in self._layers]
        for layer in self._layers:
            # Length by length they would compile until PyTorch's limit, and then run uncompiled without a word
            layer.forward = torch.compile(layer.forward, dynamic=True)

    def caused(self, error: BaseException) -> bool:
        """
        Whether an error comes from compiling.

        Args:
            error (`BaseException`):
                The error.

        Returns:
            `bool`: `False` also once the compilation is undone.
        """
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        return bool(self._layers) and isinstance(error, (TorchDynamoException, InductorError))

    def undo(self) -> None:
        """Give the layers their own forward back."""
        for layer, forward in zip(self._layers, self._own, strict=True):
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = forward
        self._layers, self._own = [], []


@contextmanager
def compiled_layers(model: torch.nn.Module) -> Iterator[CompiledLayers]:
    """
    Compile the decoder layers of a model while the context lasts.

    Args:
        model (`torch.nn.Module`):
            Model.

    Yields:
        [`CompiledLayers`]: What can be undone early.
    """
    layers = CompiledLayers(model)
    try:
        yield layers
    finally:
        layers.undo()
