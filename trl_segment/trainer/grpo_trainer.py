"""[`~trl.GRPOTrainer`] whose advantages weigh the segments that led to the answer."""

import time
from collections.abc import Callable

import torch
from transformers import ProcessorMixin
from trl import GRPOTrainer

from ..attribution import AttributionConfig
from ..configs import config_of
from ..models.inspection import cache_can_be_cut, slices_logits, unwrap_adapter
from ..models.sharding import check_sharding
from ._trl_compat import end_tokens, model_id, parallel_over_one_trace, record_metric, text_tokenizer
from .grpo_config import SegmentWeightedGRPOConfig
from .segment_weights import OUTCOMES, WEIGHTED, SegmentWeigher, TokenWeights, completion_rows


class SegmentWeightedGRPOTrainer(GRPOTrainer):
    r"""
    Trainer for GRPO with segment weights: the tokens of a completion share its advantage by what they matter to the
    answer that it gives.

    After generation and rewards, the policy itself is asked what the log-probability of the completion's answer loses
    without each segment of its reasoning (`attribution_scorer`). Tokens of segments that matter weigh
    `segment_weight_kept`, tokens of the others `segment_weight_dropped`, all others 1; the weights of a completion are
    scaled to mean 1, so that the step keeps its size, and multiply its advantage. A completion that is cut off, gives
    no answer, or has one segment weighs 1 throughout. What differs from [`~trl.GRPOTrainer`] is that one method;
    generation, rewards, loss and evaluation are TRL's. With equal weights it trains exactly as
    [`~trl.GRPOTrainer`] does.

    The metrics `segment_weights/...` say what became of the completions of a generation batch, over all processes:
    `rows_weighted` and, of the others, `rows_truncated`, `rows_no_answer`, `rows_one_segment`, `rows_all_alike` (every
    segment kept, or none), `rows_zero_advantage`, `rows_negative_advantage` and `rows_not_scored` count them;
    `weighted_tokens` is the share of tokens in weighted completions, `kept_tokens` the share of these in kept
    segments, and `std` the standard deviation of their weights; `seconds` is the scorer's time and `share_of_step` its
    share of the time from one generation to the next.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            See [`~trl.GRPOTrainer`]. It must make logits of chosen positions (`logits_to_keep`).
        reward_funcs (`RewardFunc` or `list[RewardFunc]`, *optional*):
            See [`~trl.GRPOTrainer`].
        args ([`SegmentWeightedGRPOConfig`], *optional*):
            Configuration.
        segmenter (`Callable[[str], list[str]]`, *optional*):
            Takes the text of a reasoning and returns its segments in order, in place of `args.segmenter`.
        **kwargs:
            Everything else that [`~trl.GRPOTrainer`] takes.

    Raises:
        `TypeError`: If `args` are those of another trainer.
        `ValueError`: If the model sees images, cannot make logits of chosen positions, or has no cache that the scorer
            could cut; if the tokenizer is slow.
        `NotImplementedError`: If processes share the work on one completion, or FSDP1 flattens the parameters.

    Examples:
    ```python
    >>> from datasets import load_dataset
    >>> from trl.rewards import accuracy_reward
    >>> from trl_segment import SegmentWeightedGRPOTrainer

    >>> trainer = SegmentWeightedGRPOTrainer(
    ...     model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ...     reward_funcs=accuracy_reward,
    ...     train_dataset=load_dataset("trl-lib/DeepMath-103K", split="train"),
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["trl", "grpo", "trl-segment"]
    _name = "GRPO with segment weights"

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: SegmentWeightedGRPOConfig | None = None,
        *others,
        segmenter: Callable[[str], list[str]] | None = None,
        **kwargs,
    ):
        if args is None:
            name = model if isinstance(model, str) else model_id(model.config)
            args = SegmentWeightedGRPOConfig(f"{name.split('/')[-1]}-GRPO")
        if not isinstance(args, SegmentWeightedGRPOConfig):
            raise TypeError(
                f"`args` is a {type(args).__name__}, which does not say how segments are weighted. Pass a "
                "`SegmentWeightedGRPOConfig`; it takes every argument of `GRPOConfig`."
            )
        if isinstance(kwargs.get("processing_class"), ProcessorMixin):
            raise _sees_images(type(kwargs["processing_class"]).__name__)
        super().__init__(model, reward_funcs, args, *others, **kwargs)
        _check_model(self)
        self._weigher = SegmentWeigher(
            text_tokenizer(self),
            end_tokens(self),
            config_of(AttributionConfig, args),
            args.segment_selection,
            args.segment_weight_kept,
            args.segment_weight_dropped,
            segmenter,
        )
        self._last_scored: tuple[float, float] | None = None

    def _generate_and_score_completions(self, inputs):
        began = time.perf_counter()
        if not self.model.training:
            # Evaluation is TRL's, so that runs compare
            return super()._generate_and_score_completions(inputs)
        output = super()._generate_and_score_completions(inputs)
        scoring = time.perf_counter()
        outcomes, rows = completion_rows(output, self._weigher.end_ids, self.args.segment_weight_negative)
        scored = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
        model = self.accelerator.unwrap_model(self.model)
        found = iter(self._weigher.weigh(model, scored))
        weighed = [next(found) if outcome is None else TokenWeights(outcome) for outcome in outcomes]
        weights = torch.ones(output["completion_ids"].shape, dtype=torch.float32)
        for row, one in enumerate(weighed):
            if one.weights is not None:
                weights[row, : len(one.weights)] = torch.from_numpy(one.weights)
        output["advantages"] = output["advantages"][:, None] * weights.to(output["advantages"])
        self._record(weighed, rows, began, time.perf_counter() - scoring)
        return output

    def _record(self, weighed, rows, began, seconds):
        """Metrics of a generation batch, summed over processes."""
        counts = [sum(one.outcome == outcome for one in weighed) for outcome in OUTCOMES]
        tokens = sum(int(row.counted.sum()) for row in rows)
        pairs = [(one, row.counted) for one, row in zip(weighed, rows, strict=True) if one.weights is not None]
        of_weighted = sum(int(counted.sum()) for _, counted in pairs)
        of_kept = sum(int(one.kept[counted].sum()) for one, counted in pairs)
        # Their mean is 1 in every completion
        spread = sum(float(((one.weights[counted] - 1.0) ** 2).sum()) for one, counted in pairs)
        # Of the step before this one, whose time is known only now
        before = (0.0, 0.0) if self._last_scored is None else (self._last_scored[1], began - self._last_scored[0])
        self._last_scored = (began, seconds)
        sums = torch.tensor(
            [*counts, tokens, of_weighted, of_kept, spread, seconds, *before],
            dtype=torch.float64 if self.accelerator.device.type == "cpu" else torch.float32,
            device=self.accelerator.device,
        )
        *counts, tokens, of_weighted, of_kept, spread, seconds, scorer, step = self.accelerator.reduce(sums).tolist()
        metrics = {f"rows_{outcome}": count for outcome, count in zip(OUTCOMES, counts, strict=True)}
        metrics["weighted_tokens"] = of_weighted / max(tokens, 1)
        metrics["seconds"] = seconds / self.accelerator.num_processes
        if metrics[f"rows_{WEIGHTED}"]:
            metrics["kept_tokens"] = of_kept / max(of_weighted, 1)
            metrics["std"] = (spread / max(of_weighted, 1)) ** 0.5
        if step > 0:
            metrics["share_of_step"] = scorer / step
        for name, value in metrics.items():
            record_metric(self, "train", f"segment_weights/{name}", value)


def _sees_images(name: str) -> ValueError:
    return ValueError(
        f"`processing_class` is a {name}, for a model that sees images. Segments are spans of text, and the scorer "
        "reads text alone. Pass a model of text and its tokenizer, or use TRL's GRPOTrainer."
    )


def _check_model(trainer: SegmentWeightedGRPOTrainer) -> None:
    """Refuse what the scorer cannot run on, before anything is generated."""
    args, tokenizer = trainer.args, text_tokenizer(trainer)
    if tokenizer is None:
        raise _sees_images(type(trainer.processing_class).__name__)
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} ({tokenizer.name_or_path!r}) is a slow tokenizer without an offset mapping, "
            "so segments cannot be matched with tokens. Load a fast one: `AutoTokenizer.from_pretrained(...)`."
        )
    model = trainer.accelerator.unwrap_model(trainer.model)
    check_sharding(model)
    name = type(unwrap_adapter(model)).__name__
    if not slices_logits(model):
        raise ValueError(
            f"{name} cannot be asked for the logits of some positions (`logits_to_keep`), so every trial of a segment "
            "would make those of a whole completion. Use another model, or TRL's GRPOTrainer."
        )
    if args.attribution_scorer in ("marginal", "attention") and not cache_can_be_cut(model):
        raise ValueError(
            f"{name} remembers more of a text than its tokens' keys and values, so `attribution_scorer="
            f"{args.attribution_scorer!r}` cannot go on from a part of it. Use 'rest_perplexity' with "
            "`selection='attribution'`, which reads each text from its start, or another model."
        )
    if parallel_over_one_trace(trainer.accelerator):
        raise NotImplementedError(
            "Segment weights inside a run with tensor, context or sequence parallelism are not supported, since its "
            "processes share the work on one completion. Use data parallelism, or TRL's GRPOTrainer."
        )
