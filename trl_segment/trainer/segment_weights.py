"""How much each token of a completion weighs in the policy gradient, by what its segments matter to its answer."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..attribution import AttributionConfig, Scorer, make_scorer
from ..attribution.scorers import without_reasoning
from ..attribution.sequences import sequence_of
from ..configs import config_of
from ..models.passes import wait_for_others
from ..printing import get_logger
from ..selection import SegmentScores, SelectionConfig, select, unit_mask
from ..traces import (
    AttributedSequence,
    GeneratedTokens,
    Trace,
    TraceConfig,
    UnplacedError,
    build_trace,
    decode_with_spans,
    naming_errors,
    training_units,
)


logger = get_logger(__name__)

# What becomes of a completion: its tokens have weights of their own, or why they weigh 1 throughout
WEIGHTED = "weighted"
TRUNCATED = "truncated"  # it was cut off, so its answer is not known
ZERO_ADVANTAGE = "zero_advantage"  # no weight would change anything
NEGATIVE_ADVANTAGE = "negative_advantage"  # with `segment_weight_negative=False`
NO_ANSWER = "no_answer"  # neither a box nor anything else that states one
ONE_SEGMENT = "one_segment"
ALL_ALIKE = "all_alike"  # the selection keeps every segment, or none
NOT_SCORED = "not_scored"  # for another reason, which the log says
OUTCOMES = (
    WEIGHTED,
    TRUNCATED,
    ZERO_ADVANTAGE,
    NEGATIVE_ADVANTAGE,
    NO_ANSWER,
    ONE_SEGMENT,
    ALL_ALIKE,
    NOT_SCORED,
)


@dataclass(frozen=True, eq=False)
class CompletionTokens:
    """
    A completion of a batch, without padding.

    Args:
        number (`int`):
            Its row.
        prompt_ids (`np.ndarray`):
            Token IDs of its prompt, shape (prompt tokens,).
        completion_ids (`np.ndarray`):
            Its own, shape (tokens,).
        counted (`np.ndarray`):
            Which of its own count in the loss, bool, shape (tokens,): not those that a tool has written.
    """

    number: int
    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    counted: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """
    The weights of one completion.

    Args:
        outcome (`str`):
            One of [`OUTCOMES`].
        weights (`np.ndarray`, *optional*):
            Weight of each of its tokens, shape (tokens,), float32, with mean 1 over those that count; `None` if all
            weigh 1.
        kept (`np.ndarray`, *optional*):
            Whether each token has the weight of kept segments, bool, shape (tokens,).
    """

    outcome: str
    weights: np.ndarray | None = None
    kept: np.ndarray | None = None


class SegmentWeigher:
    """
    Weighs the tokens of completions by what the policy itself says that their segments matter to the answer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Fast tokenizer of the policy.
        end_ids (`Collection[int]`):
            Tokens that end a completion, or pad it.
        attribution ([`~trl_segment.AttributionConfig`]):
            How completions are read and scored.
        selection ([`~trl_segment.SelectionConfig`]):
            Which segments have the weight of kept ones.
        kept_weight (`float`):
            Their weight, before the weights of a completion are scaled to mean 1.
        dropped_weight (`float`):
            That of the others. Tokens outside the reasoning weigh 1.
        segmenter (`Callable[[str], list[str]]`, *optional*):
            Takes the text of a reasoning and returns its segments in order, in place of `attribution.segmenter`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Collection[int],
        attribution: AttributionConfig,
        selection: SelectionConfig,
        kept_weight: float,
        dropped_weight: float,
        segmenter: Callable[[str], list[str]] | None = None,
    ):
        self.tokenizer, self.end_ids, self.segmenter = tokenizer, frozenset(end_ids), segmenter
        self.attribution, self.selection = attribution, selection
        self.kept_weight, self.dropped_weight = kept_weight, dropped_weight
        self._reading = config_of(TraceConfig, attribution)
        self._said: set[str] = set()

    def weigh(self, model: PreTrainedModel, rows: list[CompletionTokens]) -> list[TokenWeights]:
        """
        Weights of some completions. Processes that share the parameters of a sharded model call this together.

        Args:
            model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
                The policy, unwrapped. It is run without gradients in evaluation mode, and left as it was found.
            rows (`list[CompletionTokens]`):
                The completions.

        Returns:
            `list[TokenWeights]`: In the same order.
        """
        scorer = make_scorer(model, self.attribution, self.selection)
        found = [self._weigh_one(scorer, row) for row in rows]
        wait_for_others(model, scorer.lockstep)
        return found

    def _weigh_one(self, scorer: Scorer, row: CompletionTokens) -> TokenWeights:
        completion_ids, ended = row.completion_ids, len(row.completion_ids)
        while ended and completion_ids[ended - 1] in self.end_ids:
            ended -= 1
        try:
            text, spans = decode_with_spans(self.tokenizer, completion_ids[:ended])
        except UnplacedError as error:
            return self._not_scored(error.reason)
        with naming_errors(f"completion {row.number} of the batch"):
            # A row without an answer of its own: the one that the completion gives is explained
            trace = build_trace({"prompt": "", "completion": text}, self._reading, self.segmenter)
        if not trace.answer:
            return TokenWeights(NO_ANSWER)
        if trace.problem is None and len(trace.segments) < 2:
            return TokenWeights(ONE_SEGMENT)
        generated = GeneratedTokens(row.prompt_ids, completion_ids[:ended], spans)
        sequence, problem = sequence_of(trace, self.tokenizer, scorer.model.config, self.attribution, generated)
        if sequence is None:
            return self._not_scored(problem)
        scores = self._score(scorer, sequence, trace)
        if scores is None:
            return self._not_scored("its scores are not finite, or negative")
        kept = select(scores, self.selection, trace.key).kept
        if kept.all() or not kept.any():
            return TokenWeights(ALL_ALIKE)
        units = np.zeros(len(completion_ids), dtype=np.int64)
        units[:ended] = training_units(text, spans, list(trace.segments))
        of_units = np.concatenate([[False], unit_mask(kept, self.selection.transition)])
        weights = token_weights(units, of_units, row.counted, self.kept_weight, self.dropped_weight)
        return TokenWeights(WEIGHTED, weights, of_units[units])

    def _score(self, scorer: Scorer, sequence: AttributedSequence, trace: Trace) -> SegmentScores | None:
        texts = ([trace.completion[a:b] for a, b in trace.segments],) if scorer.reads_text else ()
        result = scorer.attribute(sequence.input_ids, sequence.target, sequence.segments, *texts)
        scores = result.segments
        if not result.finite or (scores.strength < 0).any():
            return None
        if self.selection.min_gain is not None:
            without = without_reasoning(scorer, sequence) if result.f_baseline is None else result.f_baseline
            gain = None if without is None else result.f_input - without
            scores = replace(scores, gain=gain)
        return scores

    def _not_scored(self, problem: str) -> TokenWeights:
        # In words each reason once, in numbers all along
        if problem not in self._said:
            self._said.add(problem)
            logger.warning(f"A completion cannot be scored and its tokens weigh 1: {problem}. Others are counted.")
        return TokenWeights(NOT_SCORED)


def token_weights(
    units: np.ndarray, kept: np.ndarray, counted: np.ndarray, kept_weight: float, dropped_weight: float
) -> np.ndarray:
    """
    Weights of tokens with mean 1, so that a step is as long as without them.

    Args:
        units (`np.ndarray`):
            Unit of each token, 0 outside the reasoning, shape (tokens,), see
            [`~trl_segment.traces.training_units`].
        kept (`np.ndarray`):
            Whether each unit is of a kept segment, bool, shape (units + 1,).
        counted (`np.ndarray`):
            Which tokens count in the loss, bool, shape (tokens,).
        kept_weight (`float`):
            Weight of the tokens of kept units.
        dropped_weight (`float`):
            Weight of the tokens of the others. Tokens outside the reasoning weigh 1.

    Returns:
        `np.ndarray`: Shape (tokens,), float32, mean 1 over the tokens that count; 1 where a token does not count.
        All 1 if no token that counts has a weight.

    Examples:
    ```python
    >>> units, kept = np.array([0, 1, 2, 3, 4, 0]), np.array([False, True, True, False, False])
    >>> token_weights(units, kept, np.ones(6, dtype=bool), 4.0, 1.0).tolist()
    [0.5, 2.0, 2.0, 0.5, 0.5, 0.5]
    ```
    """
    raw = np.where(units == 0, 1.0, np.where(kept[units], kept_weight, dropped_weight))
    total = raw[counted].sum()
    if total == 0:
        return np.ones(len(units), dtype=np.float32)
    return np.where(counted, raw * (counted.sum() / total), 1.0).astype(np.float32)


def completion_rows(
    output: dict[str, torch.Tensor], end_ids: Collection[int], weigh_negative: bool
) -> tuple[list[str | None], list[CompletionTokens]]:
    """
    The completions of a batch as [`SegmentWeigher.weigh`] takes them.

    Args:
        output (`dict[str, torch.Tensor]`):
            What `GRPOTrainer` makes of a generation batch: prompts padded on the left, completions on the right.
        end_ids (`Collection[int]`):
            Tokens that end a completion, or pad it.
        weigh_negative (`bool`):
            Whether completions with a negative advantage are weighted.

    Returns:
        `tuple[list, list]`: For each row of the batch why it is not to be scored, or `None`, and its tokens.
    """
    prompt_ids, completion_ids = output["prompt_ids"].cpu().numpy(), output["completion_ids"].cpu().numpy()
    prompt_mask, mask = output["prompt_mask"].cpu().numpy() > 0, output["completion_mask"].cpu().numpy() > 0
    tool_mask = output.get("tool_mask")
    counted = mask if tool_mask is None else mask & (tool_mask.cpu().numpy() > 0)
    outcomes, rows = [], []
    for number, advantage in enumerate(output["advantages"].tolist()):
        # Rows that `mask_truncated_completions` takes out have no tokens left
        length = int(mask[number].sum())
        own = completion_ids[number, :length]
        outcome = None
        if length == 0 or own[-1] not in end_ids:
            outcome = TRUNCATED
        elif advantage == 0:
            outcome = ZERO_ADVANTAGE
        elif advantage < 0 and not weigh_negative:
            outcome = NEGATIVE_ADVANTAGE
        outcomes.append(outcome)
        rows.append(CompletionTokens(number, prompt_ids[number, prompt_mask[number]], own, counted[number, :length]))
    return outcomes, rows
