"""Scorers that need no integral: the comparisons of the paper, gradient times input, and chance."""

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...models.frozen import frozen_mode
from ...models.passes import EmbeddingSwap, Passes, split_target
from ...models.sharding import Pass
from ...selection import SegmentScores, sum_over_segments
from .base import Attribution, Scorer


if TYPE_CHECKING:
    from ...traces import AttributedSequence


class GradientTimesInput(Scorer):
    """
    Gradient of the target's log-probability times the embedding, summed over the embedding dimension: one gradient
    evaluation.
    """

    name = "gradient_x_input"
    summary = "gradient times embedding, one evaluation"
    token_attributions = True

    @classmethod
    def most_evaluations(cls, config):
        return 1.0

    def attribute(self, input_ids, target, segments):
        ids, targets = split_target(input_ids, target, segments)
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            run = Passes(self.model, swap, ids, targets, self.lockstep)
            f_input, real = run.capture(ids)
            self.check_embeddings(lambda others: run.with_ids(others, real), ids, f_input)
            _, products = run.gradients([1.0], real, torch.zeros_like(real))
        tokens = np.append(products[0], 0.0)
        return Attribution(sum_over_segments(tokens, segments), f_input, tokens, evaluations=1)


class _OfPredictions(Scorer):
    """Mean over a segment's tokens of something about the predictions that they were made with: one forward pass."""

    def attribute(self, input_ids, target, segments):
        ids, targets = split_target(input_ids, target, segments)
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            run = Passes(self.model, swap, ids, targets, self.lockstep)
            f_input, _ = run.capture(ids)
            tokens = np.zeros(len(ids) + 1)
            tokens[1:-1] = self._of_tokens(run, ids)
        read = [self._read(start, end) for start, end in segments]
        scores = [tokens[start:end].mean() if end > start else 0.0 for start, end in read]
        return Attribution(SegmentScores(segment_lengths(segments), scores=scores), f_input, tokens)

    def _read(self, start: int, end: int) -> tuple[int, int]:
        """Which tokens of a segment count."""
        return start, end

    @torch.no_grad()
    def _of_tokens(self, run, ids) -> np.ndarray:
        """The quantity of every token but the first, shape (tokens - 1,)."""
        run.swap.replacement = None
        inputs, parts = run.ids[None], []
        # A position's logits are float32 over the whole vocabulary, some hundred times what its activations take
        budget = self.max_tokens_per_forward or 16384
        step = max(1, budget // 16) if run.slices_logits else len(ids)
        for first in range(0, len(ids) - 1, step):
            positions = torch.arange(first, min(first + step, len(ids) - 1), device=run.ids.device)
            keep = {"logits_to_keep": positions} if run.slices_logits else {}
            self.lockstep.agree(Pass.FORWARD)  # these scorers make no other passes
            logits = self.model(input_ids=inputs, use_cache=False, **keep).logits[0]
            log_probs = (logits if run.slices_logits else logits[:-1]).float().log_softmax(dim=-1)
            parts.append(self._of_log_probs(log_probs, run.ids[positions + 1].to(log_probs.device)))
        return torch.cat(parts).double().cpu().numpy()

    @abc.abstractmethod
    def _of_log_probs(self, log_probs: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """The quantity of each predicted token, shape (positions,)."""


class Perplexity(_OfPredictions):
    """Mean surprisal of the segment's tokens, in nats: one forward pass."""

    name = "perplexity"
    summary = "mean surprisal of a segment's tokens"

    def _of_log_probs(self, log_probs, following):
        return -log_probs.gather(-1, following[:, None])[:, 0]


class Entropy(_OfPredictions):
    """Mean entropy of the predictions of the segment's tokens, in nats: one forward pass."""

    name = "entropy"
    summary = "mean entropy of the predictions of a segment's tokens"

    def _of_log_probs(self, log_probs, following):
        return -(log_probs.exp() * log_probs).sum(dim=-1)


class ConfidenceGain(Scorer):
    """
    What the segment adds to the target's log-probability: with everything up to its end in front of the suffix, minus
    the same up to its start; 0 where it adds nothing. One forward pass per segment and one more.
    """

    name = "confidence_gain"
    summary = "what a segment adds to the answer's log-probability"

    def attribute(self, input_ids, target, segments):
        ids, targets = split_target(input_ids, target, segments)
        suffix = ids[segments[-1][1] :]
        values = []
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            for end in (segments[0][0], *(end for _, end in segments)):
                shortened = Passes(self.model, swap, torch.cat([ids[:end], suffix]), targets, self.lockstep)
                values.append(shortened.capture(shortened.ids)[0])
        scores = self._scores(np.array(values))
        return Attribution(SegmentScores(segment_lengths(segments), scores=scores), values[-1])

    def _scores(self, values: np.ndarray) -> np.ndarray:
        """Scores from the log-probabilities of the answer after each number of segments, shape (segments + 1,)."""
        return np.maximum(np.diff(values), 0.0)


class RandomScores(Scorer):
    """Uniform in [0, 1), from the sequence's own tokens, so the same every time."""

    name = "random"
    summary = "chance"
    unit = ""

    def attribute(self, input_ids, target, segments):
        ids, targets = split_target(input_ids, target, segments)
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            f_input, _ = Passes(self.model, swap, ids, targets, self.lockstep).capture(ids)
        scores = np.random.default_rng(ids.numpy()).random(len(segments))
        return Attribution(SegmentScores(segment_lengths(segments), scores=scores), f_input)


def without_reasoning(scorer: Scorer, sequence: "AttributedSequence") -> float | None:
    """
    Log-probability of the answer where the whole reasoning is left out: one forward pass.

    Args:
        scorer ([`Scorer`]):
            Whose model is asked.
        sequence ([`~trl_segment.traces.AttributedSequence`]):
            The attributed sequence.

    Returns:
        `float` or `None`: In nats; `None` where nothing stands around the reasoning.
    """
    first, last = sequence.segments[0][0], sequence.segments[-1][1]
    cut = np.concatenate([sequence.input_ids[:first], sequence.input_ids[last:]])
    start, end = (place - (last - first) for place in sequence.target)
    if start < 1:
        return None
    ids, targets = split_target(cut, (start, end), [])
    with frozen_mode(scorer.model), EmbeddingSwap(scorer.model.get_input_embeddings()) as swap:
        return Passes(scorer.model, swap, ids, targets, scorer.lockstep).capture(ids)[0]


def segment_lengths(segments: Sequence[tuple[int, int]]) -> np.ndarray:
    """Tokens of each segment, shape (segments,)."""
    return np.array([end - start for start, end in segments], dtype=np.int64)
