r"""
What attribution will cost, from a model's config and the lengths of the traces, before a weight is loaded.

A gradient evaluation differentiates with respect to the input embeddings alone, so a weight costs one product backward
as it does forward (in training two); causal attention costs twice its forward pass backward. With $W$ weights in the
layers, $L$ layers, $H$ heads of width $d$ and $T$ tokens

$$ F_{forward} = 2 W T + 2 L H d T^2, \qquad F_{evaluation} = 4 W T + 6 L H d T^2 . $$

A trace costs its evaluations, each plus one more forward pass where activations are recomputed, and two forward passes
for F at the input and at the baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig


# NVIDIA H100 SXM, bfloat16 without sparsity, by its data sheet
H100_TFLOPS = 989.0
# By the same data sheet; float32 products do not run on tensor cores
TFLOPS_BY_PRECISION = {"bfloat16": H100_TFLOPS, "float16": H100_TFLOPS, "tf32": 494.7, "float32": 67.0}

_GIB = 2**30


@dataclass(frozen=True)
class CostEstimate:
    """
    What an attribution run is expected to cost.

    Args:
        traces (`int`):
            Traces.
        tokens (`int`):
            Their tokens together.
        longest (`int`):
            Tokens of the longest.
        parameters (`int`):
            Weights of the model, embeddings included.
        flops (`float`):
            Floating point operations of the whole run.
        hours (`float`):
            Time of the run on all devices, in hours.
        device_hours (`float`):
            The same times the number of devices.
        weights_gib (`float`):
            Memory of the weights on one device, in GiB.
        activations_gib (`float`):
            Memory of the largest pass as configured on one device, in GiB.
        least_activations_gib (`float`):
            Memory of the longest trace alone and with gradient checkpointing, in GiB: what a run falls back to.
    """

    traces: int
    tokens: int
    longest: int
    parameters: int
    flops: float
    hours: float
    device_hours: float
    weights_gib: float
    activations_gib: float
    least_activations_gib: float

    @property
    def gib(self) -> float:
        """Memory of one device with the passes as configured, in GiB."""
        return self.weights_gib + self.activations_gib

    @property
    def least_gib(self) -> float:
        """Memory under which the longest trace cannot run on one device, in GiB."""
        return self.weights_gib + self.least_activations_gib

    def __str__(self):
        return (
            f"{self.traces:,} traces, {self.tokens:,} tokens (longest {self.longest:,}), "
            f"{self.parameters / 1e9:.2f} billion weights: {self.flops:.2e} operations, about {self.hours:,.2f} hours "
            f"({self.device_hours:,.2f} device hours); per device {self.gib:,.1f} GiB, of which weights "
            f"{self.weights_gib:,.1f}, at least {self.least_gib:,.1f} GiB with gradient checkpointing"
        )


def estimate_cost(
    model_config: PreTrainedConfig,
    tokens: Sequence[int] | np.ndarray,
    evaluations: float,
    devices: int = 1,
    sharded: bool = False,
    max_tokens_per_forward: int | None = None,
    bytes_per_number: float = 2,
    device_tflops: float = H100_TFLOPS,
    utilization: float = 0.4,
) -> CostEstimate:
    """
    Estimate hours and memory of an attribution run.

    Memory is for attention kernels that keep no matrix of tokens by tokens (`sdpa`, flash). A mixture of experts is
    counted as if every expert saw every token, so its hours are an upper bound.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the attribution model, e.g. from [`~transformers.AutoConfig`]. No weights are needed.
        tokens (`Sequence[int]` or `np.ndarray`):
            Tokens of the attributed sequence of each trace, shape (traces,).
        evaluations (`float`):
            Gradient evaluations per trace, on average: the number of nodes of a fixed rule; for the adaptive one what
            an earlier run spent, at most its cap.
        devices (`int`, *optional*, defaults to `1`):
            Number of devices that share the traces.
        sharded (`bool`, *optional*, defaults to `False`):
            Whether the weights are sharded over the devices (ZeRO-3, FSDP), with two layers gathered at a time.
        max_tokens_per_forward (`int`, *optional*):
            `attribution_max_tokens`. A trace longer than it runs with gradient checkpointing. Without it 16,384
            tokens run together, and a longer trace alone without checkpointing, as on an accelerator.
        bytes_per_number (`float`, *optional*, defaults to `2`):
            Bytes of a weight and of an activation: 2 for bfloat16, 4 for float32.
        device_tflops (`float`, *optional*, defaults to `989`):
            Peak of a device in 1e12 operations a second. The default is an H100's in bfloat16.
        utilization (`float`, *optional*, defaults to `0.4`):
            Share of that peak that the run reaches. An assumption until you have measured yours.

    Returns:
        [`CostEstimate`]: Hours and GiB.

    Raises:
        `ValueError`: If there is no trace, or a count, a peak or a share is not positive.

    Examples:
    ```python
    >>> from transformers import AutoConfig

    >>> config = AutoConfig.from_pretrained("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
    >>> print(estimate_cost(config, [7000] * 817, evaluations=25, devices=8))
    ```
    """
    lengths = np.asarray(tokens, dtype=np.float64)
    if lengths.size == 0 or lengths.min() <= 0:
        raise ValueError("`tokens` must hold the length of at least one trace, and each must be positive.")
    for name, value in (
        ("evaluations", evaluations),
        ("devices", devices),
        ("bytes_per_number", bytes_per_number),
        ("device_tflops", device_tflops),
        ("utilization", utilization),
    ):
        if value <= 0:
            raise ValueError(f"`{name}` must be positive, but {value} was passed.")
    parameters, in_layers = count_weights(model_config)
    text = model_config.get_text_config()
    layers = text.num_hidden_layers

    checkpointed = np.zeros(len(lengths), dtype=bool)
    if max_tokens_per_forward is not None:
        checkpointed = lengths > max_tokens_per_forward
    forward = forward_flops(model_config, lengths, in_layers)
    backward = forward + 2 * layers * _attention_width(text) * lengths**2
    flops = float((evaluations * (forward * (1 + checkpointed) + backward) + 2 * forward).sum())
    hours = flops / (devices * device_tflops * 1e12 * utilization) / 3600

    weights = parameters * bytes_per_number
    if sharded:
        weights = weights / devices + 2 * in_layers / layers * bytes_per_number
    budget = 16384 if max_tokens_per_forward is None else max_tokens_per_forward
    together = lengths * np.clip(budget // lengths, 1, max(1, np.ceil(evaluations)))
    passes = np.where(
        checkpointed,
        activation_bytes(model_config, lengths, bytes_per_number, checkpointing=True),
        activation_bytes(model_config, together, bytes_per_number),
    )
    least = activation_bytes(model_config, lengths.max(), bytes_per_number, checkpointing=True)
    return CostEstimate(
        traces=len(lengths),
        tokens=int(lengths.sum()),
        longest=int(lengths.max()),
        parameters=parameters,
        flops=flops,
        hours=hours,
        device_hours=hours * devices,
        weights_gib=weights / _GIB,
        activations_gib=float(passes.max()) / _GIB,
        least_activations_gib=float(least) / _GIB,
    )


def count_weights(model_config: PreTrainedConfig) -> tuple[int, int]:
    """
    Number of weights of a model, without making any.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of a causal language model.

    Returns:
        `tuple[int, int]`: All of them, and those outside the input embeddings and the head.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    ends = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    at_the_ends = {id(parameter) for module in ends for parameter in module.parameters()}
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key not in at_the_ends)


def forward_flops(model_config: PreTrainedConfig, tokens: np.ndarray, weights_in_layers: int) -> np.ndarray:
    """
    Operations of a forward pass with the logits of a few positions: `2 W T + 2 L H d T^2`.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Gives layers, heads and their width.
        tokens (`np.ndarray`):
            Tokens of each sequence, shape (sequences,).
        weights_in_layers (`int`):
            See [`count_weights`].

    Returns:
        `np.ndarray`: Shape (sequences,).
    """
    text = model_config.get_text_config()
    tokens = np.asarray(tokens, dtype=np.float64)
    return 2 * weights_in_layers * tokens + 2 * text.num_hidden_layers * _attention_width(text) * tokens**2


def activation_bytes(
    model_config: PreTrainedConfig, tokens: np.ndarray, bytes_per_number: float = 2, checkpointing: bool = False
) -> np.ndarray:
    r"""
    What a gradient evaluation keeps between its forward and its backward pass.

    The weights are frozen, so a linear layer keeps nothing. A decoder layer with hidden size $h$, MLP width $m$, $H$
    query and $K$ key heads of width $d$ keeps per token: the inputs of its two norms in float32, queries, keys, values
    and attention output, and three numbers per unit of the gated MLP:

    $$ 2 \cdot 4 h + b (2 H d + 2 K d + 3 m) \ \text{bytes} . $$

    With checkpointing every layer keeps its input, `b h` bytes, and one layer at a time the above.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Gives the widths.
        tokens (`np.ndarray`):
            Tokens of each pass, shape (passes,).
        bytes_per_number (`float`, *optional*, defaults to `2`):
            Bytes `b` of an activation.
        checkpointing (`bool`, *optional*, defaults to `False`):
            Whether activations are recomputed layer by layer.

    Returns:
        `np.ndarray`: Bytes, shape (passes,).
    """
    text = model_config.get_text_config()
    tokens = np.asarray(tokens, dtype=np.float64)
    layer = layer_bytes(model_config, tokens, bytes_per_number)
    if not checkpointing:
        return text.num_hidden_layers * layer
    return text.num_hidden_layers * bytes_per_number * text.hidden_size * tokens + layer


def layer_bytes(
    model_config: PreTrainedConfig, tokens: int | np.ndarray, bytes_per_number: float = 2
) -> float | np.ndarray:
    """
    What one decoder layer keeps for its backward pass, see [`activation_bytes`].

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Gives the widths. `eager` attention keeps a matrix of tokens by tokens for each head besides.
        tokens (`int` or `np.ndarray`):
            Tokens of each pass.
        bytes_per_number (`float`, *optional*, defaults to `2`):
            Bytes of an activation.

    Returns:
        `float` or `np.ndarray`: Bytes.
    """
    text = model_config.get_text_config()
    width, key_heads = text.hidden_size, getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    mlp = getattr(text, "intermediate_size", None) or 4 * width
    attention = 2 * _attention_width(text) + 2 * key_heads * (_attention_width(text) // text.num_attention_heads)
    kept = tokens * (8 * width + bytes_per_number * (attention + 3 * mlp))
    if getattr(text, "_attn_implementation", None) == "eager":
        # The softmax, which is made in float32, and its copy where the model's precision is another
        kept = kept + text.num_attention_heads * tokens**2 * (4 + bytes_per_number * (bytes_per_number < 4))
    return kept


def embedding_bytes(
    model_config: PreTrainedConfig, tokens: int | np.ndarray, bytes_per_number: float = 2
) -> float | np.ndarray:
    """
    What a node needs at the ends of the model: its place on the path and its gradient, in float32 and in the model's
    precision.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Gives the width.
        tokens (`int` or `np.ndarray`):
            Tokens of each pass.
        bytes_per_number (`float`, *optional*, defaults to `2`):
            Bytes of an activation.

    Returns:
        `float` or `np.ndarray`: Bytes.
    """
    return tokens * model_config.get_text_config().hidden_size * (4 * 4 + 2 * bytes_per_number)


def _attention_width(text_config) -> int:
    """Heads times the width of a head."""
    head = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    return head * text_config.num_attention_heads
