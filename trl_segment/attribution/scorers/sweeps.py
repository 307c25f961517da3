r"""
The loss of the answer without a segment: a backward sweep of leave-one-out trials.

From the last segment to the first, each is left out of what is still kept. If the answer then loses less than a
threshold, the segment stays out, and the trials of the earlier ones go on without it. A sweep keeps a
computation and drops its verification: going backward, it tries the later copy first, while the earlier one still
stands in front of it.

The text in front of a segment never changes during its trials, so the keys and values of the whole trace are computed
once and every trial runs over the kept rest alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from ...models.frozen import frozen_mode
from ...models.inspection import cache_can_be_cut, slices_logits, unwrap_adapter
from ...models.loading import process_state
from ...models.passes import split_target
from ...models.sharding import Pass
from ...selection import SegmentScores
from .base import Attribution, Scorer


# Chosen on 16 traces of one world and looked at on another, see docs/selection_rules.md. A token is rewritten where
# the model had been sure of it and its probability then falls to less than a twelfth (2.5 nats). Both keep a copy that
# was undecided anyway from being tipped over by whatever is left out.
_SURE = np.log(0.7)
_FALL = 2.5

# So many tokens at the start of a segment stay: keyword and announcement, what the segment is going to do. Without a
# wrong guess the model would not announce a correction of it, but that says nothing about what a correction finds.
_ANNOUNCEMENT_TOKENS = 8

# A forward and a backward pass cost about three forward passes
_FORWARDS_PER_GRADIENT = 3


class BackwardSweep(Scorer):
    r"""
    Scores segments by what the log-probability of the answer loses when they are left out, from the last to the first.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model whose cache can be cut off at any position. It is used in evaluation mode with frozen
            parameters and left as it was found.
        threshold (`float`, *optional*, defaults to `1.0`):
            A segment whose absence costs the answer less than this, in nats, stays out.
        rounds (`int`, *optional*):
            How often a trial may rewrite the kept text behind the segment. At 0 that text stays as it is, and a step
            whose result a later step already repeats costs nothing when it is left out. Otherwise tokens that the
            model was sure of (at least 0.7 probable) with the segment in place, and that become less than a twelfth as
            probable without it, are replaced by what it says instead, all of them at once in each round, until nothing
            changes: the loss of a step travels through the steps built on it down to the answer, whereas the loss of a
            wrong guess ends at the words that mention it. The first eight tokens of each segment stay as they are: not
            what a step sets out to do is in question, but what it then finds. A text that still changes after the last
            round does not count.
        max_tokens_per_forward (`int`, *optional*):
            Logits are made for a sixteenth of as many positions at a time. Defaults to 16,384.

    Raises:
        `ValueError`: If the threshold is not positive or the number of rounds is negative.
    """

    name = "marginal"
    summary = "what the answer loses without a segment, in a sweep from the last to the first"
    options = ("threshold",)
    # Rounds of rewriting that a config asks for by the scorer's name
    default_rounds = 0

    def __init__(
        self,
        model: PreTrainedModel,
        threshold: float = 1.0,
        rounds: int | None = None,
        max_tokens_per_forward: int | None = None,
    ):
        rounds = self.default_rounds if rounds is None else rounds
        if not 0 < threshold < float("inf"):
            raise ValueError(
                f"`threshold` is a loss in nats and must be positive and finite, but {threshold} was passed."
            )
        if rounds < 0:
            raise ValueError(f"`rounds` counts and cannot be negative, but {rounds} was passed.")
        super().__init__(model, max_tokens_per_forward)
        self.threshold, self.rounds = threshold, rounds
        self.piece = max(1, (max_tokens_per_forward or 16384) // 16)

    @classmethod
    def from_config(cls, model, config, selection=None):
        return cls(model, config.attribution_threshold, max_tokens_per_forward=config.attribution_max_tokens)

    def attribute(
        self,
        input_ids: Sequence[int] | np.ndarray | torch.Tensor,
        target: tuple[int, int],
        segments: Sequence[tuple[int, int]],
    ) -> Attribution:
        """
        Score the segments of a sequence, see [`~trl_segment.attribution.Scorer.attribute`].

        Returns:
            [`Attribution`]: A segment's score is the answer's loss in nats, 0 where it gains. `evaluations` is the
            cost in gradient evaluations, rounded up.

        Raises:
            `ValueError`: If a span is not inside the sequence, or the model has a recurrent state or a memory of its
                own beside keys and values.
        """
        if not cache_can_be_cut(self.model):
            raise ValueError(
                f"{type(unwrap_adapter(self.model)).__name__} remembers more of a text than its tokens' keys and "
                f"values, so the scorer {self.name!r} cannot go on from a part of it. Use another scorer, such as "
                "'confidence_gain', or another model (`attribution_model`)."
            )
        segments = list(segments)
        fed, answer = split_target(input_ids, target, segments)
        device = process_state().device if self.lockstep.active else self.model.get_input_embeddings().weight.device
        ids = torch.cat([fed, answer[-1:]]).to(device)
        self._tokens_run = 0
        with frozen_mode(self.model), torch.no_grad():
            # Without rewriting, only the answer is read: no other position needs logits
            self._read = None if self.rounds or not slices_logits(self.model) else len(answer)
            cache = DynamicCache()
            log_probs, _ = self._run(cache, ids[:-1], ids[1:])
            # From here on entry t speaks about token t; nothing is said about the first token
            known = np.concatenate([[0.0], log_probs])
            self._layers = [(layer.keys, layer.values) for layer in cache.layers]

            end = segments[-1][1]
            rest, rest_known = ids[end:], known[end:]
            # The words between reasoning and answer are ours, not the model's to rewrite, and the answer is measured
            rest_fixed = np.ones(len(rest), dtype=bool)
            size = len(answer)
            losses = np.zeros(len(segments))
            for index in range(len(segments) - 1, -1, -1):
                start, end = segments[index]
                if end == start:
                    continue
                losses[index], without = self._trial(ids, start, rest, rest_known, rest_fixed, size)
                if losses[index] < self.threshold:
                    rest_known = without
                else:
                    rest = torch.cat([ids[start:end], rest])
                    rest_known = np.concatenate([known[start:end], rest_known])
                    announced = np.arange(end - start) < _ANNOUNCEMENT_TOKENS
                    rest_fixed = np.concatenate([announced, rest_fixed])
        del self._layers

        lengths = np.array([end - start for start, end in segments], dtype=np.int64)
        forwards = self._tokens_run / len(ids)
        return Attribution(
            SegmentScores(lengths, scores=np.maximum(losses, 0.0)),
            f_input=float(known[-size:].sum()),
            evaluations=int(np.ceil(forwards / _FORWARDS_PER_GRADIENT)),
        )

    def _trial(self, ids, start, rest, rest_known, rest_fixed, size) -> tuple[float, np.ndarray]:
        """The answer's loss without the segment that starts at `start`, and the log-probabilities of the tokens of the
        rest, as it stands, without it."""
        inputs = torch.cat([ids[start - 1 : start], rest[:-1]])
        known, best, layers = self._continue(self._layers, start - 1, inputs, rest)
        before = rest_known[-size:].sum()
        loss = after = before - known[-size:].sum()
        free = (rest_known >= _SURE) & ~rest_fixed
        text, now = rest, known
        for _ in range(self.rounds):
            if loss >= self.threshold:
                break
            falls = torch.from_numpy(free & (rest_known - now >= _FALL)).to(rest.device)
            rewritten = torch.where(falls, best, rest)
            differs = (rewritten != text).nonzero()[:, 0]
            if len(differs) == 0:
                # Now the text is what the model would say: before, it may have been half of two sentences
                loss = max(loss, after)
                break
            # What stands before the first new word was computed in the round before
            text, first = rewritten, int(differs[0])
            values, said, layers = self._continue(layers, start + first, text[first:-1], rest[first + 1 :])
            now = np.concatenate([now[: first + 1], values])
            best = torch.cat([best[: first + 1], said])
            after = before - now[-size:].sum()
        return loss, known

    def _continue(self, layers, length, inputs, labels):
        """Log-probabilities of `labels`, the likeliest tokens at each of their places and the keys and values by
        layer, with `inputs` after the first `length` positions of `layers`."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(layers):
            cache.update(keys[:, :, :length], values[:, :, :length], index)
        log_probs, best = self._run(cache, inputs, labels)
        return log_probs, best, [(layer.keys, layer.values) for layer in cache.layers]

    def _run(self, cache, inputs, labels) -> tuple[np.ndarray, torch.Tensor]:
        if self._read is not None:
            self.lockstep.agree(Pass.FORWARD)
            kept = min(self._read, len(inputs))
            logits = self.model(
                input_ids=inputs[None], past_key_values=cache, use_cache=True, logits_to_keep=kept
            ).logits[0]
            log_probs = logits.float().log_softmax(dim=-1).gather(-1, labels[-kept:].to(logits.device)[:, None])[:, 0]
            self._tokens_run += len(inputs)
            unread = np.zeros(len(inputs) - kept)
            return np.concatenate([unread, log_probs.double().cpu().numpy()]), labels
        log_probs, best = [], []
        for first in range(0, len(inputs), self.piece):
            piece = inputs[first : first + self.piece]
            self.lockstep.agree(Pass.FORWARD)  # a sweep makes no other passes
            logits = self.model(input_ids=piece[None], past_key_values=cache, use_cache=True).logits[0].float()
            chosen = labels[first : first + self.piece].to(logits.device)
            log_probs.append(logits.log_softmax(dim=-1).gather(-1, chosen[:, None])[:, 0])
            best.append(logits.argmax(dim=-1))
        self._tokens_run += len(inputs)
        return torch.cat(log_probs).double().cpu().numpy(), torch.cat(best).to(inputs.device)


class CounterfactualSweep(BackwardSweep):
    """
    The same where the text behind a segment may change as the model would go on without it, see `rounds` of
    [`BackwardSweep`].
    """

    name = "counterfactual"
    summary = "the same where the text behind the segment changes as the model would go on without it"
    # Three changed words in each of five steps that build on one another; a trial ends earlier once nothing changes
    default_rounds = 16
