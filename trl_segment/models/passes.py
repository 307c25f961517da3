"""Forward and backward passes over one sequence, with other embeddings in the place of its tokens' own."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch

from .frozen import checkpointing, frozen_mode
from .inspection import slices_logits
from .process import process_state
from .sharding import Lockstep, Pass


# As a share of F: the same pass twice gives the same number but for the order of sums on some devices
_SAME_VALUE = 1e-5


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
    # A tensor may lie on an accelerator, which NumPy cannot read
    ids = input_ids.detach().cpu() if isinstance(input_ids, torch.Tensor) else torch.as_tensor(np.asarray(input_ids))
    ids = ids.to(torch.long).reshape(-1)
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
            Model in [`~trl_segment.models.frozen.frozen_mode`].
        swap ([`EmbeddingSwap`]):
            Hook on its embedding module.
        ids (`torch.Tensor`):
            Token IDs to feed, shape (tokens,).
        targets (`torch.Tensor`):
            Token IDs that the last positions are to predict, shape (targets,).
        lockstep ([`~trl_segment.models.sharding.Lockstep`]):
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
        self,
        kind: Pass,
        ids: torch.Tensor,
        embeddings: torch.Tensor | None = None,
        recomputed_layers: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        One pass, of the kind that the processes have agreed on.

        Args:
            kind ([`~trl_segment.models.sharding.Pass`]):
                Its kind.
            ids (`torch.Tensor`):
                Token IDs, shape (batch, tokens).
            embeddings (`torch.Tensor`, *optional*):
                What takes the place of their embeddings, shape (batch, tokens, hidden).
            recomputed_layers (`int`, *optional*):
                How many layers a checkpointed pass computes again. Defaults to all.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: F of each row, shape (batch,), and, if the kind has one, its
            gradient with respect to the embeddings, shape (batch, tokens, hidden).
        """
        self.swap.replacement = embeddings
        checkpointed = kind is Pass.CHECKPOINTED_GRADIENT
        recomputed = checkpointing(self.model, recomputed_layers) if checkpointed else nullcontext()
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

    def with_ids(self, ids: torch.Tensor, embeddings: torch.Tensor) -> float:
        """F of embeddings of shape (tokens, hidden), where the model is told that they are those of other IDs."""
        values, _ = self.make(self.lockstep.agree(Pass.FORWARD), ids.to(self.ids)[None], embeddings[None])
        return values.item()

    def gradients(
        self, nodes: list[float], real: torch.Tensor, base: torch.Tensor, recomputed_layers: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        F and its directional derivative by token at some points of a straight line, in one forward and backward pass.

        Args:
            nodes (`list[float]`):
                Places on the line in [0, 1].
            real (`torch.Tensor`):
                Where it ends, float32, shape (tokens, hidden).
            base (`torch.Tensor`):
                Where it starts, of the same shape.
            recomputed_layers (`int`, *optional*, defaults to `0`):
                How many layers, from the first on, compute their activations again in the backward pass.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: F at each node in nats, shape (nodes,), and the inner product of its
            gradient with `real - base` for each token, shape (nodes, tokens), both float64.
        """
        alpha = torch.tensor(nodes, dtype=torch.float32, device=real.device)[:, None, None]
        difference = real - base
        kind = self.lockstep.agree(Pass.CHECKPOINTED_GRADIENT if recomputed_layers else Pass.GRADIENT)
        # Another process may want a checkpointed pass where this one does not: then it is whole for both
        layers = recomputed_layers if recomputed_layers and not self.lockstep.active else None
        values, gradient = self.make(kind, self.ids.expand(len(nodes), -1), base + alpha * difference, layers)
        inner = (gradient.float() * difference).sum(dim=-1, dtype=torch.float64)
        return values.double().cpu().numpy(), inner.cpu().numpy()


def reads_ids(value_of: Callable[[torch.Tensor], float], ids: torch.Tensor, value: float) -> float | None:
    """
    Whether a model reads of its tokens more than what its embedding module hands out: embeddings of every layer, or a
    choice of experts by token ID.

    Such a model gives another value where other IDs are passed beside the same embeddings. That costs one pass; a
    second one where the value differs, to tell it from sums that are made in another order each time.

    Args:
        value_of (`Callable[[torch.Tensor], float]`):
            Takes IDs and gives F, in nats, with the embeddings of `ids` whatever the IDs are.
        ids (`torch.Tensor`):
            Token IDs, shape (tokens,).
        value (`float`):
            F of the sequence.

    Returns:
        `float` or `None`: By how many nats F changes, 0 if it does not; `None` where this cannot be told, since all
        tokens are the same or F is not finite.
    """
    others = ids.roll(1)
    if torch.equal(others, ids) or not math.isfinite(value):
        return None
    change = abs(value_of(others) - value)
    if change <= _SAME_VALUE * max(1.0, abs(value)):
        return 0.0
    return change if change > 10 * abs(value_of(ids) - value) else 0.0


def wait_for_others(model: torch.nn.Module, lockstep: Lockstep) -> None:
    """
    Run along until no process that shares the model's parameters needs this one any more.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model.
        lockstep ([`~trl_segment.models.sharding.Lockstep`]):
            Its lockstep. Each process calls this once, when its traces are done.
    """
    if not lockstep.active:
        return
    ids = torch.zeros(2, dtype=torch.long)
    with frozen_mode(model), EmbeddingSwap(model.get_input_embeddings()) as swap:
        idle = Passes(model, swap, ids, ids[:1], lockstep)
        while (kind := lockstep.agree(Pass.NOTHING)) is not Pass.NOTHING:
            idle.make(kind, idle.ids[None])
