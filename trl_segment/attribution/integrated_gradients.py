r"""
Integrated Gradients of an answer's log-probability with respect to the token embeddings, over any causal LM.

The engine works on token IDs alone. Four things keep it exact and small: the interpolated embeddings are put in by a
hook on the embedding module, so the model runs its own forward on `input_ids` (also when sharded); only the positions
that predict the answer get logits; interpolation and sums stay in float32 or above whatever the model's precision; and
of every gradient only its inner product with (input - baseline) is kept, one number per token, so memory does not grow
with the number of nodes.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .quadrature import Evaluation, check_rule, start_rule


logger = logging.get_logger(__name__)

BASELINES = ("pad", "eos", "zero", "mean")
PATHS = ("all", "reasoning")


@dataclass(frozen=True)
class Attribution:
    """
    Attributions of one sequence.

    Args:
        tokens (`np.ndarray`):
            Signed attribution of each token in nats, shape (tokens,), float64. They sum to `f_input - f_baseline` but
            for the quadrature error. The last token of the target comes after everything that F depends on: its
            attribution is 0.
        f_input (`float`):
            F of the sequence: log-probability of the target, in nats.
        f_baseline (`float`):
            F with the baseline in place of the input.
        evaluations (`int`):
            Gradient evaluations (one forward and one backward pass over one sequence) spent.
        stopped_by (`str`):
            Why the rule spent no more, see [`~trl_segment.attribution.quadrature.Integral`].
        num_tokens (`np.ndarray`):
            Token count of each segment, shape (segments,).
        sum_abs (`np.ndarray`):
            Sum of absolute token attributions of each segment, shape (segments,).
        sum_signed (`np.ndarray`):
            Sum of signed token attributions of each segment, shape (segments,).
    """

    tokens: np.ndarray
    f_input: float
    f_baseline: float
    evaluations: int
    stopped_by: str
    num_tokens: np.ndarray
    sum_abs: np.ndarray
    sum_signed: np.ndarray

    @property
    def completeness_gap(self) -> float:
        """Sum of all attributions minus `f_input - f_baseline`, in nats: the quadrature error of the sum."""
        return float(self.tokens.sum() - (self.f_input - self.f_baseline))

    @property
    def finite(self) -> bool:
        """Whether no attribution is NaN or infinite."""
        return bool(np.isfinite(self.tokens).all()) and math.isfinite(self.f_input - self.f_baseline)


class IntegratedGradients:
    """
    Integrated Gradients (arXiv 1703.01365) of the log-probability of a token span.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It is used in evaluation mode with frozen parameters and left as it was found.
        rule (`str`, *optional*, defaults to `"paper"`):
            Quadrature rule, one of [`~trl_segment.attribution.quadrature.RULES`].
        evaluations (`int`, *optional*, defaults to `50`):
            Gradient evaluations per sequence.
        path (`str`, *optional*, defaults to `"all"`):
            What moves from baseline to input: `"all"` tokens together (the paper), or the `"reasoning"` alone, from
            the first segment to the last, while prompt and answer stay. The second is another quantity: what the
            reasoning adds, credited to the reasoning.
        baseline (`str` or `int`, *optional*, defaults to `"pad"`):
            Where the path starts at every position: the embedding of the `"pad"` (the paper) or `"eos"` token of
            `model.config` or of a token ID, the `"mean"` of all embeddings, or `"zero"`.
        max_tokens_per_forward (`int`, *optional*, defaults to `16384`):
            Token budget of one forward pass. As many nodes of a sequence run together as fit, at least one.

    Raises:
        `ValueError`: On an unknown rule, path or baseline, or a model without the token of the baseline.

    Examples:
    ```python
    >>> engine = IntegratedGradients(model, rule="midpoint", evaluations=32)
    >>> result = engine.attribute(input_ids, target=(90, 93), segments=[(12, 40), (40, 85)])
    >>> result.sum_signed, result.completeness_gap
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rule: str = "paper",
        evaluations: int = 50,
        path: str = "all",
        baseline: str | int = "pad",
        max_tokens_per_forward: int = 16384,
    ):
        check_rule(rule, evaluations)
        if path not in PATHS:
            raise ValueError(f"Unknown path {path!r}. Pass one of {', '.join(map(repr, PATHS))}.")
        self.model = model
        self.rule = rule
        self.evaluations = evaluations
        self.path = path
        self.max_tokens_per_forward = max_tokens_per_forward
        self.baseline = resolve_baseline(model, baseline)
        # PEFT and accelerate wrap `forward` in `*args, **kwargs`; what the model itself takes decides
        unwrapped = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._slices_logits = "logits_to_keep" in inspect.signature(type(unwrapped).forward).parameters
        if not self._slices_logits:
            logger.warning(
                f"{type(unwrapped).__name__} computes the logits of every position (its forward has no "
                "`logits_to_keep`), which costs memory in proportion to tokens times vocabulary."
            )

    def attribute(
        self,
        input_ids: Sequence[int] | np.ndarray | torch.Tensor,
        target: tuple[int, int],
        segments: Sequence[tuple[int, int]] | None = None,
    ) -> Attribution:
        """
        Attribute `log p(input_ids[start:end] | input_ids[:start])` to the tokens before it.

        Args:
            input_ids (`Sequence[int]`, `np.ndarray` or `torch.Tensor`):
                Token IDs, shape (tokens,). What follows the target is ignored.
            target (`tuple[int, int]`):
                Token span whose log-probability is attributed.
            segments (`Sequence[tuple[int, int]]`, *optional*):
                Token spans to sum attributions over. Required by `path="reasoning"`.

        Returns:
            [`Attribution`]: One number per token up to the end of the target, and the sums per segment.

        Raises:
            `ValueError`: If the target is empty, starts at token 0 or leaves the sequence, if a segment does, or if
                the path needs segments and there are none.
        """
        segments = list(segments or [])
        ids = torch.as_tensor(np.asarray(input_ids), dtype=torch.long).reshape(-1)
        start, end = target
        if not 0 < start < end <= len(ids):
            raise ValueError(
                f"The target {target} must be a token span with something before it, inside a sequence of "
                f"{len(ids)} tokens: 0 < start < end <= {len(ids)}."
            )
        if any(not 0 <= a <= b <= len(ids) for a, b in segments):
            raise ValueError(f"Segments must lie inside the {len(ids)} tokens of the sequence, but got {segments}.")
        if self.path == "reasoning" and not segments:
            raise ValueError("The path 'reasoning' needs the segments that make it up. Pass `segments`.")

        # The last target token predicts nothing that counts, so it is not fed
        ids = ids[: end - 1]
        with attribution_mode(self.model), _EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            targets = torch.as_tensor(np.asarray(input_ids)[start:end].astype(np.int64))
            run = _Run(self.model, swap, ids, targets, self._slices_logits)
            f_input, real = run.capture(ids)
            f_baseline, base = self._baseline(run, ids, real, segments)
            rule = start_rule(self.rule, self.evaluations)
            batch = max(1, self.max_tokens_per_forward // len(ids))
            nodes = next(rule)
            while True:
                evaluations = []
                for first in range(0, len(nodes), batch):
                    evaluations += run.evaluate(nodes[first : first + batch], real, base)
                try:
                    nodes = rule.send(evaluations)
                except StopIteration as stop:
                    integral = stop.value
                    break

        tokens = np.append(integral.attributions, 0.0)
        return Attribution(
            tokens=tokens,
            f_input=f_input,
            f_baseline=f_baseline,
            evaluations=integral.evaluations,
            stopped_by=integral.stopped_by,
            num_tokens=np.array([b - a for a, b in segments], dtype=np.int64),
            sum_abs=np.array([np.abs(tokens[a:b]).sum() for a, b in segments]),
            sum_signed=np.array([tokens[a:b].sum() for a, b in segments]),
        )

    def _baseline(self, run, ids, real, segments):
        """F of the baseline and its embeddings, shape (tokens, hidden)."""
        if isinstance(self.baseline, int):
            f_baseline, base = run.capture(torch.full_like(ids, self.baseline))
        else:
            f_baseline, base = None, self.baseline.to(real).expand_as(real)
        if self.path == "reasoning":
            moving = torch.zeros(len(ids), 1, dtype=torch.bool, device=real.device)
            moving[segments[0][0] : segments[-1][1]] = True
            f_baseline, base = None, torch.where(moving, base, real)
        if f_baseline is None:
            f_baseline = run.forward_only(base)
        return f_baseline, base


def resolve_baseline(model: PreTrainedModel, baseline: str | int) -> int | torch.Tensor:
    """
    The token ID or the vector that a baseline's name stands for.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Its config names the tokens, its embedding module holds the vectors.
        baseline (`str` or `int`):
            See [`IntegratedGradients`]. Digits count as a token ID.

    Returns:
        `int` or `torch.Tensor`: A token ID, or a vector of shape (hidden,).

    Raises:
        `ValueError`: If the name is unknown or the model has no such token.
    """
    if isinstance(baseline, str) and baseline.isdigit():
        baseline = int(baseline)
    weight = model.get_input_embeddings().weight
    if isinstance(baseline, int):
        token_id = baseline
    elif baseline in ("pad", "eos"):
        token_id = getattr(model.config.get_text_config(), f"{baseline}_token_id")
        token_id = token_id[0] if isinstance(token_id, (list, tuple)) else token_id
        if token_id is None:
            raise ValueError(
                f"The baseline {baseline!r} needs the embedding of a {baseline} token, but `model.config` names none. "
                f"Set `model.config.{baseline}_token_id`, or choose another baseline with `attribution_baseline`: a "
                "token ID, 'mean' or 'zero'" + (" or 'eos'." if baseline == "pad" else ".")
            )
    elif baseline == "zero":
        return torch.zeros(weight.shape[-1])
    elif baseline == "mean":
        with torch.no_grad():
            return weight.float().mean(dim=0)
    else:
        raise ValueError(
            f"Unknown baseline {baseline!r}. Pass one of {', '.join(map(repr, BASELINES))}, or a token ID."
        )
    num_embeddings = model.get_input_embeddings().num_embeddings
    if not 0 <= token_id < num_embeddings:
        raise ValueError(f"The baseline token {token_id} is not one of the model's {num_embeddings:,} embeddings.")
    if weight.ndim == 2 and len(weight) > token_id:  # not so under ZeRO-3, where the rows are elsewhere
        norms = weight[token_id].float().norm(), weight.float().norm(dim=1).median()
        if norms[0] < 0.1 * norms[1]:
            logger.warning(
                f"The embedding of the baseline token {token_id} ({baseline!r}) has norm {norms[0]:.2g}, against a "
                f"median of {norms[1]:.2g}: it was probably never trained. Most of the path's mass then lies next to "
                "the baseline, where a rule with fixed nodes misses it. Consider `attribution_baseline` 'eos', 'mean' "
                "or a token ID."
            )
    return int(token_id)


@contextmanager
def attribution_mode(model: torch.nn.Module) -> Iterator[None]:
    """
    Freeze all parameters and switch to evaluation mode; on leaving, everything is as before.

    Args:
        model (`torch.nn.Module`):
            Model to attribute with.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


class _EmbeddingSwap:
    """A hook on the embedding module: hands out what it computed, or puts other embeddings in its place."""

    def __init__(self, embedding: torch.nn.Module):
        self.embedding = embedding
        self.replacement = None
        self.captured = None

    def __enter__(self):
        # Last in line, so that it sees (and hides) what PEFT's own hooks do to the output
        self._handle = self.embedding.register_forward_hook(self._hook)
        return self

    def __exit__(self, *exception):
        self._handle.remove()

    def _hook(self, module, args, output):
        if self.replacement is None:
            self.captured = output.detach()
            return output
        # What the model computes in; the leaf that it came from stays in float32
        return self.replacement.to(output.dtype)


class _Run:
    """The passes over one sequence."""

    def __init__(self, model, swap, ids, targets, slices_logits):
        self.model, self.swap = model, swap
        device = model.get_input_embeddings().weight.device
        self.ids, self.targets = ids.to(device), targets.to(device)
        self.slices_logits = slices_logits

    def _log_probability(self, ids: torch.Tensor) -> torch.Tensor:
        """F of each row of `ids`, shape (batch,), float32."""
        keep = {"logits_to_keep": len(self.targets)} if self.slices_logits else {}
        # All rows have the same length: no mask is needed, and fused causal kernels apply
        logits = self.model(input_ids=ids, use_cache=False, **keep).logits[:, -len(self.targets) :]
        log_probs = logits.float().log_softmax(dim=-1)
        targets = self.targets.to(log_probs.device).expand(len(ids), -1).unsqueeze(-1)
        return log_probs.gather(-1, targets).sum(dim=(1, 2))

    @torch.no_grad()
    def capture(self, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
        """F of the token IDs and their embeddings, float32, shape (tokens, hidden)."""
        self.swap.replacement = None
        value = self._log_probability(ids.to(self.ids)[None])
        return value.item(), self.swap.captured[0].float()

    @torch.no_grad()
    def forward_only(self, embeddings: torch.Tensor) -> float:
        """F of embeddings of shape (tokens, hidden)."""
        self.swap.replacement = embeddings[None]
        return self._log_probability(self.ids[None]).item()

    @torch.enable_grad()
    def evaluate(self, nodes: list[float], real: torch.Tensor, base: torch.Tensor) -> list[Evaluation]:
        """The integrand at some nodes, in one forward and backward pass."""
        alpha = torch.tensor(nodes, dtype=torch.float32, device=real.device)[:, None, None]
        difference = real - base
        leaf = (base + alpha * difference).requires_grad_(True)
        self.swap.replacement = leaf
        values = self._log_probability(self.ids.expand(len(nodes), -1))
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        integrands = (gradient.float() * difference).sum(dim=-1, dtype=torch.float64)
        return [
            Evaluation(value, integrand)
            for value, integrand in zip(values.tolist(), integrands.cpu().numpy(), strict=True)
        ]
