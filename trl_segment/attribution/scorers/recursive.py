r"""
Attribution in hops: what the answer rests on, what that rests on in turn, and so on.

A result that a step works out is read from the step that states it last. Attribution of the answer therefore ends
there and says little about the steps before (FlashTrace, arXiv 2602.01914, calls the result absorbed, and hops to
reach the prompt). Here the hops are made to find segments: after each, the tokens that supported the last target
become the next one, weighted by how much they did.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from ...models.frozen import frozen_mode
from ...models.inspection import slices_logits
from ...models.passes import EmbeddingSwap, split_target
from ...selection import sum_over_segments
from .base import Attribution, Scorer
from .baselines import resolve_baseline


_HOPS, _EVALUATIONS = 3, 2


class RecursiveAttribution(Scorer):
    r"""
    Integrated Gradients of the answer, and of what it rests on.

    Hop 0 attributes `log p(answer)`. Hop `h` attributes `sum_t w_t log p(x_t | x_<t)` over the tokens of the segments,
    where `w_t` is the positive part of the attribution of hop `h - 1`, scaled to sum to 1. Each hop's attributions are
    divided by their absolute sum, and all hops are averaged.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model. It is used in evaluation mode with frozen parameters and left as it was found.
        hops (`int`, *optional*, defaults to `3`):
            Number of hops after the first attribution.
        evaluations (`int`, *optional*, defaults to `2`):
            Gradient evaluations per hop, at the midpoints of the straight line.
        baseline (`int` or `torch.Tensor`, *optional*):
            Where the line starts: the embedding of a token, or a vector of shape (hidden,). Defaults to zero.

    Raises:
        `ValueError`: If `hops` is negative or `evaluations` is not positive.
        `NotImplementedError`: If the model's parameters are spread over processes.
    """

    name = "recursive"
    summary = "attribution in hops, from the answer to what it rests on and on from there"
    unit = "shares"
    options = ("baseline",)
    token_attributions = True

    def __init__(
        self,
        model: PreTrainedModel,
        hops: int = _HOPS,
        evaluations: int = _EVALUATIONS,
        baseline: int | torch.Tensor | None = None,
    ):
        if hops < 0 or evaluations < 1:
            raise ValueError(f"There must be 0 or more hops of 1 or more evaluations, not {hops} of {evaluations}.")
        super().__init__(model)
        self.hops, self.evaluations, self.baseline = hops, evaluations, baseline
        if self.lockstep.active:
            raise NotImplementedError(
                "The scorer 'recursive' cannot run on a model whose parameters are spread over processes (ZeRO-3, "
                "FSDP2). Make the attributions first with `trl-segment attribute`, or use another scorer."
            )

    @classmethod
    def from_config(cls, model, config, selection=None):
        return cls(model, baseline=resolve_baseline(model, config.attribution_baseline))

    @classmethod
    def most_evaluations(cls, config):
        return float((_HOPS + 1) * _EVALUATIONS)

    def attribute(
        self,
        input_ids: Sequence[int] | np.ndarray | torch.Tensor,
        target: tuple[int, int],
        segments: Sequence[tuple[int, int]],
    ) -> Attribution:
        """
        Score the segments of a sequence, see [`~trl_segment.attribution.Scorer.attribute`].

        Returns:
            [`Attribution`]: `tokens` are an average of shares and sum to no log-probability.
        """
        segments = list(segments)
        fed, answer = split_target(input_ids, target, segments)
        ids = torch.cat([fed, answer[-1:]]).to(self.model.get_input_embeddings().weight.device)
        inside = np.zeros(len(ids), dtype=bool)
        for start, end in segments:
            inside[start:end] = True
        weights = np.zeros(len(ids))
        weights[target[0] : target[1]] = 1.0
        total = np.zeros(len(ids))
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            with torch.no_grad():
                f_input = self._value(ids, weights, real=None, swap=swap).item()
                real = swap.captured[0].detach().float()
                self.check_embeddings(
                    lambda others: self._value(ids, weights, real[None], swap, others).item(), ids, f_input
                )
                base = self._start(real, ids, swap)
            made = 0
            for _ in range(self.hops + 1):
                attributions = self._hop(ids, weights, real, base, swap)
                made += self.evaluations
                total += attributions / max(np.abs(attributions).sum(), np.finfo(float).tiny)
                weights = np.where(inside, np.maximum(attributions, 0.0), 0.0)
                if weights.sum() == 0:
                    break
                weights /= weights.sum()
        total /= self.hops + 1
        return Attribution(sum_over_segments(total, segments), f_input, total, evaluations=made)

    def _start(self, real, ids, swap):
        if self.baseline is None:
            return torch.zeros_like(real)
        if isinstance(self.baseline, int):
            # As the embedding module hands it out, which some models scale
            swap.replacement = None
            self.model.get_input_embeddings()(torch.full_like(ids[None, :1], self.baseline))
            return swap.captured[0].detach().float().expand_as(real)
        return self.baseline.to(real).expand_as(real)

    def _value(self, ids, weights, real, swap, told=None):
        """
        Weighted log-probability of the tokens. Only positions with a weight get logits. `told` are other IDs that the
        model is fed beside the embeddings.
        """
        swap.replacement = real
        positions = torch.from_numpy(np.flatnonzero(weights[1:])).to(ids.device)
        keep = {"logits_to_keep": positions} if slices_logits(self.model) else {}
        logits = self.model(input_ids=(ids if told is None else told)[None, :-1], use_cache=False, **keep).logits[0]
        log_probs = (logits if keep else logits[positions]).float().log_softmax(dim=-1)
        factors = torch.from_numpy(weights).to(log_probs)[positions + 1]
        return (log_probs.gather(-1, ids[positions + 1][:, None])[:, 0] * factors).sum()

    @torch.enable_grad()
    def _hop(self, ids, weights, real, base, swap) -> np.ndarray:
        attributions = np.zeros(len(ids))
        for index in range(self.evaluations):
            alpha = (index + 0.5) / self.evaluations
            value = self._value(ids, weights, (base + alpha * (real - base))[None], swap)
            (gradient,) = torch.autograd.grad(value, swap.leaf)
            inner = (gradient[0].float() * (real - base)).sum(dim=-1, dtype=torch.float64)
            attributions[:-1] += inner.cpu().numpy() / self.evaluations
        return attributions
