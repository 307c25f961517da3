"""The passes that attribution makes over one sequence, and the state a model is in meanwhile."""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from .loading import process_state
from .quadrature import Evaluation
from .sharding import Lockstep, Pass, fsdp_modules


def unwrap_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def slices_logits(model: torch.nn.Module) -> bool:
    """Whether a model can be asked for the logits of some positions only."""
    # PEFT, accelerate and TRL wrap `forward`, so the model's own class is asked
    return "logits_to_keep" in inspect.signature(type(unwrap_adapter(model)).forward).parameters


@contextmanager
def attribution_mode(model: torch.nn.Module) -> Iterator[None]:
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


@contextmanager
def checkpointing(model: torch.nn.Module) -> Iterator[None]:
    """
    Recompute activations layer by layer in the backward pass, in evaluation mode.

    The models' own switch acts in training mode only, where dropout would act too.

    Args:
        model (`torch.nn.Module`):
            Model whose [`~transformers.modeling_layers.GradientCheckpointingLayer`]s are wrapped meanwhile.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
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


def split_target(input_ids, target: tuple[int, int], segments: Sequence[tuple[int, int]]):
    """
    What the model is fed and what it is to predict.

    Args:
        input_ids (`Sequence[int]`, `np.ndarray` or `torch.Tensor`):
            Token IDs, shape (tokens,).
        target (`tuple[int, int]`):
            Token span whose log-probability counts.
        segments (`Sequence[tuple[int, int]]`):
            Token spans that must lie inside.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The IDs in front of the target's last token, and the target's IDs.

    Raises:
        `ValueError`: If a span is empty, has nothing before it or leaves the sequence.
    """
    ids = torch.as_tensor(np.asarray(input_ids), dtype=torch.long).reshape(-1)
    start, end = target
    if not 0 < start < end <= len(ids):
        raise ValueError(
            f"The target {target} must be a token span with something before it, inside a sequence of {len(ids)} "
            f"tokens: 0 < start < end <= {len(ids)}."
        )
    if any(not 0 <= a <= b <= len(ids) for a, b in segments):
        raise ValueError(f"Segments must lie inside the {len(ids)} tokens of the sequence, but got {segments}.")
    return ids[: end - 1], ids[start:end]


class EmbeddingSwap:
    """
    A hook on the embedding module: hands out what it computed, or puts other embeddings in its place.

    Args:
        embedding (`torch.nn.Module`):
            Embedding module.
    """

    def __init__(self, embedding: torch.nn.Module):
        self.embedding = embedding
        self.replacement: torch.Tensor | None = None
        self.captured: torch.Tensor | None = None
        self.leaf: torch.Tensor | None = None

    def __enter__(self):
        # Last in line, so that it sees (and hides) what PEFT's own hooks do to the output
        self._handle = self.embedding.register_forward_hook(self._hook)
        return self

    def __exit__(self, *exception):
        self._handle.remove()

    def _hook(self, module, args, output):
        self.captured = output.detach()
        self.leaf = self.captured if self.replacement is None else self.replacement.detach()
        if torch.is_grad_enabled():
            self.leaf.requires_grad_(True)
        # What the model computes in; a replacement, from which the leaf is made, stays in float32
        return self.leaf.to(output.dtype)


class Passes:
    """
    The passes over one sequence.

    Args:
        model (`torch.nn.Module`):
            Model in [`attribution_mode`].
        swap ([`EmbeddingSwap`]):
            Hook on its embedding module.
        ids (`torch.Tensor`):
            Token IDs to feed, shape (tokens,).
        targets (`torch.Tensor`):
            Token IDs that the last positions are to predict, shape (targets,).
        lockstep ([`~trl_segment.attribution.sharding.Lockstep`]):
            Of the model.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        swap: EmbeddingSwap,
        ids: torch.Tensor,
        targets: torch.Tensor,
        lockstep: Lockstep,
    ):
        self.model, self.swap, self.lockstep = model, swap, lockstep
        # A sharded parameter may lie elsewhere than what is computed with it
        device = process_state().device if lockstep.active else model.get_input_embeddings().weight.device
        self.ids, self.targets = ids.to(device), targets.to(device)
        self.slices_logits = slices_logits(model)

    def _log_probability(self, ids: torch.Tensor) -> torch.Tensor:
        """F of each row of `ids`, shape (batch,), float32."""
        keep = {"logits_to_keep": len(self.targets)} if self.slices_logits else {}
        # All rows have the same length: no mask is needed, and fused causal kernels apply
        logits = self.model(input_ids=ids, use_cache=False, **keep).logits[:, -len(self.targets) :]
        log_probs = logits.float().log_softmax(dim=-1)
        targets = self.targets.to(log_probs.device).expand(len(ids), -1).unsqueeze(-1)
        return log_probs.gather(-1, targets).sum(dim=(1, 2))

    def make(
        self, kind: Pass, ids: torch.Tensor, embeddings: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        One pass, of the kind that the processes have agreed on.

        Args:
            kind ([`~trl_segment.attribution.sharding.Pass`]):
                Its kind.
            ids (`torch.Tensor`):
                Token IDs, shape (batch, tokens).
            embeddings (`torch.Tensor`, *optional*):
                What takes the place of their embeddings, shape (batch, tokens, hidden).

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: F of each row, shape (batch,), and, if the kind has one, its
            gradient with respect to the embeddings, shape (batch, tokens, hidden).
        """
        self.swap.replacement = embeddings
        recomputed = checkpointing(self.model) if kind is Pass.CHECKPOINTED_GRADIENT else nullcontext()
        with recomputed, torch.set_grad_enabled(kind >= Pass.GRADIENT):
            values = self._log_probability(ids)
            gradient = None
            if kind >= Pass.GRADIENT:
                (gradient,) = torch.autograd.grad(values.sum(), self.swap.leaf)
        self.swap.leaf = None
        return values.detach(), gradient

    def capture(self, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
        """F of the token IDs and their embeddings, float32, shape (tokens, hidden)."""
        values, _ = self.make(self.lockstep.agree(Pass.FORWARD), ids.to(self.ids)[None])
        return values.item(), self.swap.captured[0].detach().float()

    def forward_only(self, embeddings: torch.Tensor) -> float:
        """F of embeddings of shape (tokens, hidden)."""
        values, _ = self.make(self.lockstep.agree(Pass.FORWARD), self.ids[None], embeddings[None])
        return values.item()

    def evaluate(
        self, nodes: list[float], real: torch.Tensor, base: torch.Tensor, checkpointed: bool = False
    ) -> list[Evaluation]:
        """The integrand at some nodes, in one forward and backward pass, which may recompute activations."""
        alpha = torch.tensor(nodes, dtype=torch.float32, device=real.device)[:, None, None]
        difference = real - base
        kind = self.lockstep.agree(Pass.CHECKPOINTED_GRADIENT if checkpointed else Pass.GRADIENT)
        values, gradient = self.make(kind, self.ids.expand(len(nodes), -1), base + alpha * difference)
        integrands = (gradient.float() * difference).sum(dim=-1, dtype=torch.float64)
        return [
            Evaluation(value, integrand)
            for value, integrand in zip(values.tolist(), integrands.cpu().numpy(), strict=True)
        ]
