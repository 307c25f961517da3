"""What a scorer is: one way to say how much each segment of a sequence matters to the answer."""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...models.inspection import unwrap_adapter
from ...models.passes import reads_ids
from ...models.sharding import Lockstep
from ...selection import SegmentScores, SelectionConfig
from ..quadrature import Reliability


if TYPE_CHECKING:
    from ...store import AttributionStore
    from ...traces import AttributedSequence
    from ..config import AttributionConfig


@dataclass(frozen=True)
class Attribution:
    """
    Scores of one sequence.

    Args:
        segments ([`~trl_segment.selection.SegmentScores`]):
            Scores of the segments.
        tokens (`np.ndarray`, *optional*):
            Signed attribution of each token, shape (tokens,), float64, from scorers that make them. Those of
            Integrated Gradients, in nats, sum to `f_input - f_baseline` but for the quadrature error. The last token
            of the target comes after everything that F depends on: its attribution is 0.
        f_input (`float`):
            F of the sequence: log-probability of the target, in nats.
        f_baseline (`float`, *optional*):
            F with the baseline in place of the input, from scorers that have one.
        evaluations (`int`):
            Gradient evaluations (one forward and one backward pass over one sequence) spent.
        stopped_by (`str`, *optional*):
            Why a quadrature rule spent no more, see [`~trl_segment.attribution.quadrature.Integral`].
        defect (`float`, *optional*):
            Quadrature error in nats, as far as completeness shows it: for an adaptive rule the errors of its panels
            added up regardless of sign, else that of the whole sum.
        completeness_gap (`float`, *optional*):
            Sum of all attributions by the plain quadrature minus `f_input - f_baseline`, in nats: the quadrature error
            of the sum. `None` from scorers without a baseline, whose attributions have nothing to be complete.
        reliability ([`~trl_segment.attribution.quadrature.Reliability`], *optional*):
            How far the attributions can be trusted, from scorers that integrate.
    """

    segments: SegmentScores
    f_input: float
    tokens: np.ndarray | None = None
    f_baseline: float | None = None
    evaluations: int = 0
    stopped_by: str | None = None
    defect: float | None = None
    completeness_gap: float | None = None
    reliability: Reliability | None = None

    @property
    def finite(self) -> bool:
        """Whether no score is NaN or infinite."""
        scores = self.segments.scores if self.segments.sum_abs is None else self.segments.sum_abs
        values = (self.f_input, self.f_baseline or 0.0, *scores.tolist())
        tokens_finite = self.tokens is None or bool(np.isfinite(self.tokens).all())
        return tokens_finite and all(map(math.isfinite, values))


class Scorer(abc.ABC):
    """
    One way to score the segments of a sequence. A subclass with a `name` stands in [`SCORERS`] from then on.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It is used in evaluation mode with frozen parameters and left as it was found.
        max_tokens_per_forward (`int`, *optional*):
            Token budget of one forward pass.

    Attributes:
        name (`str`):
            What `attribution_scorer` calls it.
        summary (`str`):
            What it measures, in half a sentence.
        unit (`str`):
            Unit of a segment's strength.
        options (`tuple[str, ...]`):
            Fields of [`~trl_segment.AttributionConfig`], without their `attribution_`, that change its scores. A store
            keeps them, and two runs may share a store if they agree on them.
        reads_text (`bool`):
            Whether its `attribute` takes the texts of the segments as a fourth argument.
        token_attributions (`bool`):
            Whether it makes signed attributions of tokens, which give segments a direction.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    unit: ClassVar[str] = "nats"
    options: ClassVar[tuple[str, ...]] = ()
    reads_text: ClassVar[bool] = False
    token_attributions: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("name"):
            SCORERS[cls.name] = cls

    def __init__(self, model: PreTrainedModel, max_tokens_per_forward: int | None = None):
        self.model = model
        self.lockstep = Lockstep(model)
        self.max_tokens_per_forward = max_tokens_per_forward
        self._reads_embeddings_alone = False

    def check_embeddings(self, value_of: Callable[[torch.Tensor], float], ids: torch.Tensor, f_input: float) -> None:
        """
        Refuse a model of which embeddings are not all that it reads of a token. The first sequence tells.

        Args:
            value_of (`Callable[[torch.Tensor], float]`):
                See [`~trl_segment.models.passes.reads_ids`].
            ids (`torch.Tensor`):
                Token IDs, shape (tokens,).
            f_input (`float`):
                F of the sequence, in nats.

        Raises:
            `ValueError`: If token IDs enter the model beside its embedding module.
        """
        if self._reads_embeddings_alone:
            return
        change = reads_ids(value_of, ids, f_input)
        if change:
            raise ValueError(
                f"{type(unwrap_adapter(self.model)).__name__} reads token IDs beside its embeddings (per-layer "
                f"embeddings, or experts chosen by ID): log p(answer) changes by {change:.3g} where other IDs come "
                f"with the same embeddings. The scorer {self.name!r} moves the embeddings alone, so the IDs would "
                "stay at the text and its scores would be of something else. Attribute with another model "
                "(`attribution_model`; scores are of text and carry over), or with `attribution_scorer='marginal'`, "
                "which takes tokens out instead."
            )
        self._reads_embeddings_alone = change is not None

    @classmethod
    def from_config(
        cls, model: PreTrainedModel, config: "AttributionConfig", selection: SelectionConfig | None = None
    ) -> "Scorer":
        """
        The scorer that a config asks for.

        Args:
            model ([`~transformers.PreTrainedModel`]):
                Attribution model.
            config ([`~trl_segment.AttributionConfig`]):
                Settings.
            selection ([`~trl_segment.SelectionConfig`], *optional*):
                Thresholds that the scores are for, for scorers that ask.

        Returns:
            [`Scorer`]: Ready to score.
        """
        return cls(model, config.attribution_max_tokens)

    @classmethod
    def stored_options(
        cls, config: "AttributionConfig", model_config: PreTrainedConfig, selection: SelectionConfig | None = None
    ) -> dict[str, Any]:
        """
        The options that change its scores, as a store keeps them.

        Args:
            config ([`~trl_segment.AttributionConfig`]):
                Settings.
            model_config ([`~transformers.PreTrainedConfig`]):
                Config of the attribution model.
            selection ([`~trl_segment.SelectionConfig`], *optional*):
                Thresholds that the scores are for.

        Returns:
            `dict[str, Any]`: JSON-compatible, by the names in `options`.
        """
        return {name: getattr(config, f"attribution_{name}") for name in cls.options}

    @classmethod
    def most_evaluations(cls, config: "AttributionConfig") -> float | None:
        """
        What a trace costs at most.

        Args:
            config ([`~trl_segment.AttributionConfig`]):
                Settings.

        Returns:
            `float` or `None`: Gradient evaluations; `None` for a scorer that makes forward passes only.
        """
        return None

    def learn(self, sequences: Sequence["AttributedSequence"], store: "AttributionStore") -> None:  # noqa: B027
        """
        Prepare with the first traces of a run, or with what an earlier run has left in the store. Most need not.

        Args:
            sequences (`Sequence[AttributedSequence]`):
                The first traces, at most [`~Scorer.learns_from`].
            store ([`~trl_segment.AttributionStore`]):
                Keeps what is learned.
        """

    @property
    def learns_from(self) -> int:
        """Number of traces that [`~Scorer.learn`] wants to see before the first is scored."""
        return 0

    @abc.abstractmethod
    def attribute(
        self,
        input_ids: Sequence[int] | np.ndarray | torch.Tensor,
        target: tuple[int, int],
        segments: Sequence[tuple[int, int]],
    ) -> Attribution:
        """
        Score the segments of a sequence.

        Args:
            input_ids (`Sequence[int]`, `np.ndarray` or `torch.Tensor`):
                Token IDs, shape (tokens,). What follows the target is ignored.
            target (`tuple[int, int]`):
                Token span of the answer.
            segments (`Sequence[tuple[int, int]]`):
                Token span of each segment, in order and without gaps.

        Returns:
            [`Attribution`]: The scores.

        Raises:
            `ValueError`: If a span is not inside the sequence.
        """


# Every scorer by its name
SCORERS: dict[str, type[Scorer]] = {}
