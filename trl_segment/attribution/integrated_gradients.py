r"""
Integrated Gradients of an answer's log-probability with respect to the token embeddings, over any causal LM.

The engine works on token IDs alone. Four things keep it exact and small: the interpolated embeddings are put in by a
hook on the embedding module, so the model runs its own forward on `input_ids` (also when sharded); only the positions
that predict the answer get logits; interpolation and sums stay in float32 or above whatever the model's precision; and
of every gradient only its inner product with (input - baseline) is kept, one number per token, so memory does not grow
with the number of nodes.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..selection import SelectionConfig
from .decision import SelectionSettled, sum_over_segments
from .passes import EmbeddingSwap, Passes, attribution_mode, slices_logits, split_target, unwrap_adapter
from .quadrature import (
    FIXED_RULES,
    Evaluation,
    Steps,
    adaptive_simpson,
    check_rule,
    default_evaluations,
    density_midpoints,
    integrate_fixed,
)
from .sharding import Lockstep, gathered, is_dtensor, is_zero3


logger = logging.get_logger(__name__)

BASELINES = ("pad", "eos", "zero", "mean")
PATHS = ("all", "reasoning")
STOPS = ("tolerance", "decision")


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
        defect (`float`):
            Quadrature error in nats, as far as completeness shows it: for the adaptive rule the errors of its panels
            added up regardless of sign, else that of the whole sum.
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
    defect: float
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
        rule (`str`, *optional*, defaults to `"simpson"`):
            Quadrature rule, one of [`~trl_segment.attribution.quadrature.RULES`]. `"simpson"` bisects where
            completeness fails most; `"density"` puts midpoints where `density` has its mass; `"paper"` is the
            published sum.
        evaluations (`int`, *optional*):
            Gradient evaluations per sequence; for `"simpson"` the cap. Defaults to 64 for `"simpson"`, 32 for
            `"density"`, else the paper's 50.
        tolerance (`float`, *optional*, defaults to `0.01`):
            `"simpson"` stops when its panels' defects add up to at most this share of `|F(input) - F(baseline)|`.
        stop (`str`, *optional*, defaults to `"tolerance"`):
            `"decision"` lets `"simpson"` stop earlier, when the remaining error no longer changes which segments
            `selection` keeps.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that `stop="decision"` is for. Defaults to the paper's.
        path (`str`, *optional*, defaults to `"all"`):
            What moves from baseline to input: `"all"` tokens together (the paper), or the `"reasoning"` alone, from
            the first segment to the last, while prompt and answer stay. The second is another quantity: what the
            reasoning adds, credited to the reasoning.
        baseline (`str` or `int`, *optional*, defaults to `"pad"`):
            Where the path starts at every position: the embedding of the `"pad"` (the paper) or `"eos"` token of
            `model.config` or of a token ID, the `"mean"` of all embeddings, or `"zero"`.
        density (`np.ndarray`, *optional*):
            For `rule="density"`: what [`~IntegratedGradients.learn_density`] returned.
        noise_samples (`int`, *optional*, defaults to `0`):
            SmoothGrad: if positive, attributions (and F) are averaged over this many noisy copies of the input, at as
            many times the cost.
        noise_scale (`float`, *optional*, defaults to `0.1`):
            Standard deviation of that noise, as a share of the standard deviation of the input's embeddings.
        max_tokens_per_forward (`int`, *optional*):
            Token budget of one forward pass. As many nodes of a sequence run together as fit; a sequence longer than
            the budget runs alone with gradient checkpointing. If `None`, as many nodes as 16,384 tokens hold run
            together on an accelerator, one on CPU, where more cost memory and gain nothing. Out of memory halves the
            budget and tries again.

    Raises:
        `ValueError`: On an unknown rule, path, stop or baseline, or a model without the token of the baseline.

    Examples:
    ```python
    >>> engine = IntegratedGradients(model)
    >>> result = engine.attribute(input_ids, target=(90, 93), segments=[(12, 40), (40, 85)])
    >>> result.sum_signed, result.defect, result.evaluations, result.stopped_by
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rule: str = "simpson",
        evaluations: int | None = None,
        tolerance: float = 0.01,
        stop: str = "tolerance",
        selection: SelectionConfig | None = None,
        path: str = "all",
        baseline: str | int = "pad",
        density: np.ndarray | None = None,
        noise_samples: int = 0,
        noise_scale: float = 0.1,
        max_tokens_per_forward: int | None = None,
    ):
        check_rule(rule, evaluations)
        if path not in PATHS:
            raise ValueError(f"Unknown path {path!r}. Pass one of {', '.join(map(repr, PATHS))}.")
        if stop not in STOPS:
            raise ValueError(f"Unknown stop {stop!r}. Pass one of {', '.join(map(repr, STOPS))}.")
        self.model = model
        self.lockstep = Lockstep(model)
        self.rule = rule
        self.evaluations = default_evaluations(rule) if evaluations is None else evaluations
        self.tolerance = tolerance
        self.stop = stop
        self.selection = selection or SelectionConfig()
        self.path = path
        self.density = density
        self.noise_samples = noise_samples
        self.noise_scale = noise_scale
        self.max_tokens_per_forward = max_tokens_per_forward
        self.baseline = resolve_baseline(model, baseline)
        if not slices_logits(model):
            logger.warning(
                f"{type(unwrap_adapter(model)).__name__} computes the logits of every position (its forward has no "
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
        ids, targets = split_target(input_ids, target, segments)
        if (self.path == "reasoning" or (self.stop == "decision" and self.rule == "simpson")) and not segments:
            raise ValueError(
                f"path={self.path!r} with stop={self.stop!r} needs the segments of the sequence. Pass `segments`."
            )
        with (
            attribution_mode(self.model),
            _helpful_memory_error(len(ids), self.lockstep.active),
            EmbeddingSwap(self.model.get_input_embeddings()) as swap,
        ):
            run = Passes(self.model, swap, ids, targets, self.lockstep)
            f_input, real = run.capture(ids)
            f_baseline, base = self._baseline(run, ids, real, segments)
            inputs, values = [real], [f_input]
            if self.noise_samples > 0:
                generator = torch.Generator().manual_seed(0)
                scale = self.noise_scale * real.std()
                inputs = [
                    real + scale * torch.randn(real.shape, generator=generator).to(real)
                    for _ in range(self.noise_samples)
                ]
                values = [run.forward_only(noisy) for noisy in inputs]
            integrals = [self._integrate(run, noisy, base, segments) for noisy in inputs]

        # The target's last token was not fed: nothing that F depends on comes after it
        tokens = np.append(np.mean([integral.attributions for integral in integrals], axis=0), 0.0)
        num_tokens, sum_abs, sum_signed = sum_over_segments(tokens, segments)
        f_input = float(np.mean(values))
        defects = [integral.defect for integral in integrals]
        if np.isnan(defects).any():
            defects = [abs(tokens.sum() - (f_input - f_baseline))]
        return Attribution(
            tokens=tokens,
            f_input=f_input,
            f_baseline=f_baseline,
            evaluations=sum(integral.evaluations for integral in integrals),
            stopped_by=integrals[-1].stopped_by,
            defect=float(np.mean(defects)),
            num_tokens=num_tokens,
            sum_abs=sum_abs,
            sum_signed=sum_signed,
        )

    def learn_density(
        self,
        sequences: Sequence[tuple[Sequence[int], tuple[int, int], Sequence[tuple[int, int]]]],
        cells: int = 64,
    ) -> np.ndarray:
        """
        Where along the path `|dF|` lies, by forward passes alone, for `rule="density"`.

        Args:
            sequences (`Sequence[tuple]`):
                Token IDs, target span and segment spans of some sequences, 8 or so.
            cells (`int`, *optional*, defaults to `64`):
                Equal cells of [0, 1]; a sequence costs one forward pass per cell and one more.

        Returns:
            `np.ndarray`: Share of each cell, mean over the sequences, shape (cells,).
        """
        shares = []
        for input_ids, target, segments in sequences:
            ids, targets = split_target(input_ids, target, segments)
            with attribution_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
                run = Passes(self.model, swap, ids, targets, self.lockstep)
                f_input, real = run.capture(ids)
                f_baseline, base = self._baseline(run, ids, real, list(segments))
                inner = [run.forward_only(base + i / cells * (real - base)) for i in range(1, cells)]
            mass = np.abs(np.diff([f_baseline, *inner, f_input])) + np.finfo(float).tiny
            shares.append(mass / mass.sum())
        return np.mean(shares, axis=0)

    def _integrate(self, run, real, base, segments):
        """Run the rule from baseline to input."""
        rule = self._start_rule(segments)
        nodes = next(rule)
        while True:
            try:
                nodes = rule.send(self._evaluate(run, nodes, real, base))
            except StopIteration as stop:
                return stop.value

    def _start_rule(self, segments) -> Steps:
        if self.rule == "simpson":
            settled = SelectionSettled(segments, self.selection) if self.stop == "decision" else None
            return adaptive_simpson(self.evaluations, self.tolerance, settled)
        if self.rule == "density":
            if self.density is None:
                raise ValueError("rule='density' needs a density. Pass what `learn_density` returned as `density`.")
            return integrate_fixed(*density_midpoints(self.density, self.evaluations))
        return integrate_fixed(*FIXED_RULES[self.rule](self.evaluations))

    def _evaluate(self, run, nodes, real, base) -> list[Evaluation]:
        """The integrand at some nodes, as many in one pass as the budget allows."""
        evaluations = []
        while len(evaluations) < len(nodes):
            batch, checkpointed = self._fitting(run, len(nodes) - len(evaluations))
            try:
                evaluations += run.evaluate(nodes[len(evaluations) :][:batch], real, base, checkpointed)
            except RuntimeError as error:
                if checkpointed or not _out_of_memory(error) or self.lockstep.active:
                    raise
                # Half of what failed; under the sequence's length that means checkpointing
                self.max_tokens_per_forward = max(1, batch * len(run.ids) // 2)
                logger.warning(f"Out of memory: continuing with {self.max_tokens_per_forward:,} tokens per forward.")
        return evaluations

    def _fitting(self, run, count) -> tuple[int, bool]:
        """How many of `count` nodes run together, and whether one needs checkpointing to run at all."""
        budget = self.max_tokens_per_forward
        if budget is None:
            return (1 if run.ids.device.type == "cpu" else max(1, min(count, 16384 // len(run.ids)))), False
        return max(1, min(count, budget // len(run.ids))), len(run.ids) > budget

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
    embedding = model.get_input_embeddings()
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
        return torch.zeros(_embedding_dim(embedding))
    elif baseline == "mean":
        return _mean_embedding(embedding)
    else:
        raise ValueError(
            f"Unknown baseline {baseline!r}. Pass one of {', '.join(map(repr, BASELINES))}, or a token ID."
        )
    num_embeddings = getattr(embedding, "num_embeddings", model.config.get_text_config().vocab_size)
    if not 0 <= token_id < num_embeddings:
        raise ValueError(f"The baseline token {token_id} is not one of the model's {num_embeddings:,} embeddings.")
    with gathered(embedding.weight) as weight:
        if weight.ndim == 2 and len(weight) > token_id:  # a quantized table has another shape
            norms = weight[token_id].float().norm(), weight.float().norm(dim=1).median()
            if norms[0] < 0.1 * norms[1]:
                logger.warning(
                    f"The embedding of the baseline token {token_id} ({baseline!r}) has norm {norms[0]:.2g}, against "
                    f"a median of {norms[1]:.2g}: it was probably never trained. Most of the path's mass then lies "
                    "next to the baseline, where a rule with fixed nodes misses it. Consider `attribution_baseline` "
                    "'eos', 'mean' or a token ID."
                )
    return int(token_id)


def _embedding_dim(embedding: torch.nn.Module) -> int:
    with gathered(embedding.weight) as weight:
        return weight.shape[-1]


@torch.no_grad()
def _mean_embedding(embedding: torch.nn.Module) -> torch.Tensor:
    """Mean of what the module puts out, which some models scale, shape (hidden,), float32."""
    own = embedding.weight
    with gathered(own) as weight:
        ids = torch.arange(len(weight), device=weight.device).split(8192)
        if not is_dtensor(own):
            # The module's hooks would give a ZeRO-3 parameter back
            run = embedding.forward if is_zero3(own) else embedding
            return sum(run(part).float().sum(dim=0) for part in ids) / len(weight)
        # As it is, whatever FSDP2 keeps of it
        embedding._parameters["weight"] = torch.nn.Parameter(weight, requires_grad=False)
        try:
            return sum(embedding.forward(part).float().sum(dim=0) for part in ids) / len(weight)
        finally:
            embedding._parameters["weight"] = own


@contextlib.contextmanager
def _helpful_memory_error(num_tokens: int, sharded: bool):
    try:
        yield
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        if sharded:
            raise MemoryError(
                f"Out of memory at a sequence of {num_tokens:,} tokens. Its pass cannot be repeated in smaller parts, "
                "since the processes that share the model's parameters have moved on. Start again (what is stored is "
                f"kept) with `attribution_max_tokens` under {num_tokens:,}: longer sequences then run alone and with "
                "gradient checkpointing. If it is so already, spread the model over more devices."
            ) from error
        raise MemoryError(
            f"A sequence of {num_tokens:,} tokens does not fit even alone and with gradient checkpointing. Use a "
            "device with more memory, a lower precision (`dtype`), a memory-saving attention kernel "
            "(`attn_implementation`), or leave out longer traces."
        ) from error


def _out_of_memory(error: RuntimeError) -> bool:
    # The CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
