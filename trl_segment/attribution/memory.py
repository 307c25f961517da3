"""How a trace's gradient passes fit into memory, decided before the first of them."""

import math
from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedConfig

from .cost import count_weights, embedding_bytes, layer_bytes


# Autograd keeps up to an eighth more than the formula counts (docs/cost.md), and allocators lose some to fragments
USABLE = 0.8
# So many tokens fill an accelerator; more nodes at a time gain nothing
TOKENS_PER_PASS = 16384


@dataclass(frozen=True)
class PassPlan:
    """
    How gradient passes run.

    Args:
        nodes (`int`):
            Nodes of the path that run together.
        recomputed_layers (`int`):
            Decoder layers, from the first on, whose activations are computed again in the backward pass.
    """

    nodes: int
    recomputed_layers: int

    def bytes(self, model_config: PreTrainedConfig, tokens: int, bytes_per_number: float = 2) -> float:
        """
        What a pass takes by the formulas of [`~trl_segment.attribution.cost`].

        Args:
            model_config ([`~transformers.PreTrainedConfig`]):
                Config of the model.
            tokens (`int`):
                Tokens of the sequence.
            bytes_per_number (`float`, *optional*, defaults to `2`):
                Bytes of an activation.

        Returns:
            `float`: Bytes.
        """
        text = model_config.get_text_config()
        kept = float(layer_bytes(model_config, tokens, bytes_per_number))
        layer_input = bytes_per_number * text.hidden_size * tokens
        ends = float(embedding_bytes(model_config, tokens, bytes_per_number))
        whole = text.num_hidden_layers - self.recomputed_layers
        # The last layer to be recomputed finds the others' activations gone, unless all are recomputed
        layers = max(whole, min(1, self.recomputed_layers)) * kept + self.recomputed_layers * layer_input
        return self.nodes * (layers + ends)


def plan_passes(
    model_config: PreTrainedConfig,
    tokens: int,
    memory: float,
    bytes_per_number: float = 2,
    most_nodes: int = 1,
    whole: bool = False,
) -> PassPlan:
    """
    Plan the gradient passes of a sequence.

    As many nodes run together as fit without recomputing anything. If one does not fit alone, as few layers as
    possible are recomputed. They are the first ones: when the backward pass reaches them, the others' activations are
    free, so the layer that is computed again needs no room of its own.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the model.
        tokens (`int`):
            Tokens of the sequence.
        memory (`float`):
            Bytes for activations.
        bytes_per_number (`float`, *optional*, defaults to `2`):
            Bytes of an activation.
        most_nodes (`int`, *optional*, defaults to `1`):
            Most nodes that may run together.
        whole (`bool`, *optional*, defaults to `False`):
            Whether layers are recomputed all or none, as the processes of a sharded model must, which gather each
            layer's parameters together.

    Returns:
        [`PassPlan`]: The plan. A sequence that does not even fit with every layer recomputed gets that.
    """
    layers = model_config.get_text_config().num_hidden_layers
    kept = float(layer_bytes(model_config, tokens, bytes_per_number))
    layer_input = bytes_per_number * model_config.get_text_config().hidden_size * tokens
    ends = float(embedding_bytes(model_config, tokens, bytes_per_number))
    fit = int(memory // (layers * kept + ends))
    if fit >= 1:
        return PassPlan(min(fit, max(1, most_nodes)), 0)
    over = layers * kept + ends - memory
    recomputed = layers if whole else min(layers, math.ceil(over / max(kept - layer_input, 1.0)))
    return PassPlan(1, recomputed)


def fits(model_config: PreTrainedConfig, tokens: int, memory: float, bytes_per_number: float = 2) -> str:
    """
    Whether a model and the gradient passes of a sequence fit into a device.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the model.
        tokens (`int`):
            Tokens of the sequence.
        memory (`float`):
            Bytes of the device, for weights and passes.
        bytes_per_number (`float`, *optional*, defaults to `2`):
            Bytes of a weight and of an activation.

    Returns:
        `str`: `"yes"`, `"yes, with checkpointing"` (some layers are recomputed) or `"no"`.
    """
    left = USABLE * (memory - count_weights(model_config)[0] * bytes_per_number)
    if left <= 0:
        return "no"
    plan = plan_passes(model_config, tokens, left, bytes_per_number)
    if plan.recomputed_layers == 0:
        return "yes"
    return "yes, with checkpointing" if plan.bytes(model_config, tokens, bytes_per_number) <= left else "no"


def free_memory(device: torch.device) -> float:
    """
    Memory that a process may still use on a device.

    Args:
        device (`torch.device`):
            The device.

    Returns:
        `float`: Bytes: on CUDA what the driver has free and what PyTorch holds without using it, on a CPU what the
        system can give without swapping; infinite where it cannot be asked.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(psutil.virtual_memory().available) if device.type == "cpu" else math.inf
