r"""
Integrated Gradients of an answer's log-probability with respect to the token embeddings, over any causal LM.

The engine works on token IDs alone. Four things keep it exact and small: the interpolated embeddings are put in by a
hook on the embedding module, so the model runs its own forward on `input_ids` (also when sharded); only the positions
that predict the answer get logits; interpolation and sums stay in float32 or above whatever the model's precision; and
of every gradient only its inner product with (input - baseline) is kept, one number per token, so memory does not grow
with the number of nodes.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from ...models.frozen import frozen_mode
from ...models.inspection import slices_logits, unwrap_adapter
from ...models.passes import EmbeddingSwap, Passes, split_target
from ...printing import get_logger
from ...selection import SelectionConfig, sum_over_segments
from ..choices import PATHS, STOPS
from ..decision import SelectionSettled
from ..memory import TOKENS_PER_PASS, USABLE, PassPlan, free_memory, plan_passes
from ..quadrature import (
    RULES,
    Evaluation,
    Integral,
    RuleInputs,
    SampledPath,
    Steps,
    assess,
    check_rule,
    mean_reliability,
)
from .base import Attribution, Scorer
from .baselines import baseline_token, resolve_baseline


logger = get_logger(__name__)

# From how many traces at the start the rule "density" learns where to place its nodes
_DENSITY_TRACES = 8


class IntegratedGradients(Scorer):
    """
    Integrated Gradients (arXiv 1703.01365) of the log-probability of a token span.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It is used in evaluation mode with frozen parameters and left as it was found.
        rule (`str`, *optional*, defaults to `"hybrid"`):
            Quadrature rule, one of [`~trl_segment.attribution.quadrature.RULES`]. `"hybrid"` adds nodes where the
            integrand needs them until two halves agree; `"simpson"` bisects where completeness fails most; `"density"`
            puts midpoints where `density` has its mass; `"paper"` is the published sum.
        evaluations (`int`, *optional*):
            Gradient evaluations per sequence; for `"hybrid"` and `"simpson"` the cap. Defaults to 32 for `"hybrid"`
            and `"density"`, 64 for `"simpson"`, else the paper's 50.
        tolerance (`float`, *optional*, defaults to `0.01`):
            `"simpson"` stops when its panels' defects add up to at most this share of `|F(input) - F(baseline)|`.
        stop (`str`, *optional*, defaults to `"tolerance"`):
            `"decision"` lets `"simpson"` stop earlier, when the remaining error no longer changes which segments
            `selection` keeps.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that `stop="decision"` is for. Defaults to the paper's.
        path (`str`, *optional*, defaults to `"reasoning"`):
            What moves from baseline to input: the `"reasoning"` alone, from the first segment to the last, while
            prompt and answer stay; or `"all"` tokens together (the paper), which on real models cannot be integrated.
            The first is what the reasoning adds, credited to the reasoning.
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
            Token budget of one forward pass: as many nodes of a sequence run together as fit, and a sequence longer
            than the budget runs alone with gradient checkpointing. By default passes are planned from the model's
            shape and the free memory, see [`~trl_segment.attribution.memory.plan_passes`]: nodes run together up to
            16,384 tokens (one by one on CPU, where more gain nothing), and a sequence that does not fit recomputes as
            few layers as it can. A pass that runs out of memory all the same is planned again with half as much.
        memory (`int`, *optional*):
            Bytes for activations that passes are planned with. Defaults to what is free when a sequence begins.

    Raises:
        `ValueError`: On an unknown rule, path, stop or baseline, or a model without the token of the baseline.

    Examples:
    ```python
    >>> engine = IntegratedGradients(model)
    >>> result = engine.attribute(input_ids, target=(90, 93), segments=[(12, 40), (40, 85)])
    >>> result.segments.sum_signed, result.defect, result.evaluations, result.stopped_by
    ```
    """

    name = "integrated_gradients"
    summary = "the paper's attribution"
    options = ("rule", "evaluations", "tolerance", "stop", "noise_samples", "path", "baseline")
    token_attributions = True

    def __init__(
        self,
        model: PreTrainedModel,
        rule: str = "hybrid",
        evaluations: int | None = None,
        tolerance: float = 0.01,
        stop: str = "tolerance",
        selection: SelectionConfig | None = None,
        path: str = "reasoning",
        baseline: str | int = "pad",
        density: np.ndarray | None = None,
        noise_samples: int = 0,
        noise_scale: float = 0.1,
        max_tokens_per_forward: int | None = None,
        memory: int | None = None,
    ):
        check_rule(rule, evaluations)
        if path not in PATHS:
            raise ValueError(f"Unknown path {path!r}. Pass one of {', '.join(map(repr, PATHS))}.")
        if stop not in STOPS:
            raise ValueError(f"Unknown stop {stop!r}. Pass one of {', '.join(map(repr, STOPS))}.")
        if not 0 < tolerance < 1 or not 0 <= noise_scale < float("inf"):
            raise ValueError(
                f"`tolerance` must be in (0, 1) and `noise_scale` finite and not negative, but {tolerance} and "
                f"{noise_scale} were passed."
            )
        super().__init__(model, max_tokens_per_forward)
        self.memory = memory
        # Share of the free memory that passes are planned with, and the bytes that are free
        self._usable, self._free = USABLE, 0.0
        self.rule = rule
        self.evaluations = RULES[rule].default if evaluations is None else evaluations
        self.tolerance = tolerance
        self.stop = stop
        self.selection = selection or SelectionConfig()
        self.path = path
        self.density = density
        self.noise_samples = noise_samples
        self.noise_scale = noise_scale
        self.baseline = resolve_baseline(model, baseline)
        if not slices_logits(model):
            logger.warning(
                f"{type(unwrap_adapter(model)).__name__} computes the logits of every position (its forward has no "
                "`logits_to_keep`), which costs memory in proportion to tokens times vocabulary."
            )

    @classmethod
    def from_config(cls, model, config, selection=None):
        return cls(
            model,
            rule=config.attribution_rule,
            evaluations=config.attribution_evaluations,
            tolerance=config.attribution_tolerance,
            stop=config.attribution_stop,
            selection=selection,
            path=config.attribution_path,
            baseline=config.attribution_baseline,
            noise_samples=config.attribution_noise_samples,
            max_tokens_per_forward=config.attribution_max_tokens,
        )

    @classmethod
    def stored_options(cls, config, model_config, selection=None):
        options = super().stored_options(config, model_config)
        options["evaluations"] = config.attribution_evaluations or RULES[config.attribution_rule].default
        options["baseline"] = str(config.attribution_baseline)
        options["baseline_token"] = baseline_token(model_config, config.attribution_baseline)
        if config.attribution_stop == "decision":
            thresholds = dataclasses.asdict(selection or SelectionConfig())
            # What comes after the selection, or has no score in it, decides nothing here
            options["decision"] = {k: v for k, v in thresholds.items() if k not in ("transition", "seed")}
        return options

    @classmethod
    def most_evaluations(cls, config):
        evaluations = config.attribution_evaluations or RULES[config.attribution_rule].default
        return float(evaluations * max(1, config.attribution_noise_samples))

    @property
    def learns_from(self):
        return _DENSITY_TRACES if self.rule == "density" else 0

    def learn(self, sequences, store):
        if self.rule != "density":
            return
        self.density = store.read_array("density")
        if self.density is None and sequences:
            self.density = self.learn_density([(s.input_ids, s.target, s.segments) for s in sequences])
            store.write_array("density", self.density)

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
            frozen_mode(self.model),
            _helpful_memory_error(len(ids), self.lockstep.active),
            EmbeddingSwap(self.model.get_input_embeddings()) as swap,
        ):
            run = Passes(self.model, swap, ids, targets, self.lockstep)
            self._free = free_memory(run.ids.device) if self.memory is None else self.memory
            f_input, real = run.capture(ids)
            self.check_embeddings(lambda others: run.with_ids(others, real), ids, f_input)
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
            integrals = [
                self._integrate(run, noisy, base, segments, (f_baseline, value))
                for noisy, value in zip(inputs, values, strict=True)
            ]

        # The target's last token was not fed: nothing that F depends on comes after it
        tokens = np.append(np.mean([integral.attributions for integral in integrals], axis=0), 0.0)
        f_input = float(np.mean(values))
        gap = float(np.mean([integral.gap for integral in integrals]))
        if np.isnan(gap):
            gap = float(tokens.sum() - (f_input - f_baseline))
        defects = [integral.defect for integral in integrals]
        if np.isnan(defects).any():
            defects = [abs(gap)]
        return Attribution(
            sum_over_segments(tokens, segments),
            f_input=f_input,
            tokens=tokens,
            f_baseline=f_baseline,
            evaluations=sum(integral.evaluations for integral in integrals),
            stopped_by=integrals[-1].stopped_by,
            defect=float(np.mean(defects)),
            completeness_gap=gap,
            reliability=mean_reliability([integral.reliability for integral in integrals]),
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
            with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
                run = Passes(self.model, swap, ids, targets, self.lockstep)
                f_input, real = run.capture(ids)
                f_baseline, base = self._baseline(run, ids, real, list(segments))
                inner = [run.forward_only(base + i / cells * (real - base)) for i in range(1, cells)]
            mass = np.abs(np.diff([f_baseline, *inner, f_input])) + np.finfo(float).tiny
            shares.append(mass / mass.sum())
        return np.mean(shares, axis=0)

    def _integrate(self, run, real, base, segments, ends) -> Integral:
        """Run the rule from baseline to input."""
        rule = self._start_rule(segments, ends)
        asked, nodes, values = next(rule), [], []
        while True:
            nodes += asked
            values += (answers := self._evaluate(run, asked, real, base))
            try:
                asked = rule.send(answers)
            except StopIteration as stop:
                integral = stop.value
                break
        if integral.reliability is None:
            integral = dataclasses.replace(integral, reliability=assess(SampledPath(ends, nodes, values), segments))
        return integral

    def _start_rule(self, segments, ends) -> Steps:
        settled = SelectionSettled(segments, self.selection) if self.stop == "decision" else None
        return RULES[self.rule].start(
            RuleInputs(self.evaluations, self.tolerance, settled, self.density, ends, tuple(segments))
        )

    def _evaluate(self, run, nodes, real, base) -> list[Evaluation]:
        """The integrand at some nodes, as many in one pass as memory allows."""
        evaluations = []
        while len(evaluations) < len(nodes):
            plan = self._plan(run, len(nodes) - len(evaluations))
            try:
                values, products = run.gradients(
                    nodes[len(evaluations) :][: plan.nodes], real, base, plan.recomputed_layers
                )
                evaluations += [Evaluation(float(v), row) for v, row in zip(values, products, strict=True)]
            except RuntimeError as error:
                if not _out_of_memory(error) or self.lockstep.active or not self._shrink(run, plan):
                    raise
        return evaluations

    def _plan(self, run, count) -> PassPlan:
        """How the next of `count` nodes run."""
        config, tokens = self.model.config, len(run.ids)
        budget = self.max_tokens_per_forward
        if budget is not None:
            layers = config.get_text_config().num_hidden_layers
            return PassPlan(max(1, min(count, budget // tokens)), layers if tokens > budget else 0)
        # On a CPU more nodes cost memory and gain nothing
        most = 1 if run.ids.device.type == "cpu" else min(count, TOKENS_PER_PASS // tokens)
        room = self._usable * self._free
        return plan_passes(config, tokens, room, self.model.dtype.itemsize, most, self.lockstep.active)

    def _shrink(self, run, plan) -> bool:
        """Plan with less memory after a pass that did not fit; `False` if there is nothing left to save."""
        layers = self.model.config.get_text_config().num_hidden_layers
        if plan.nodes == 1 and plan.recomputed_layers >= layers:
            return False
        if self.max_tokens_per_forward is not None:
            # Half of what failed; under the sequence's length that means checkpointing
            self.max_tokens_per_forward = max(1, plan.nodes * len(run.ids) // 2)
            logger.warning(f"Out of memory: continuing with {self.max_tokens_per_forward:,} tokens per forward.")
            return True
        # What failed was planned to fit, so the plan counts too little of it: half of that from now on
        planned = plan.bytes(self.model.config, len(run.ids), self.model.dtype.itemsize)
        self._usable = min(self._usable, planned / self._free) / 2
        room = self._usable * self._free / 2**30
        logger.warning(f"Out of memory: continuing with passes that are planned for {room:,.2f} GiB of activations.")
        return True

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
