r"""
What the answer loses without a segment: a backward sweep of leave-one-out trials.

From the last segment to the first, each is left out of what is still kept. If the answer then loses less than a
threshold, the segment stays out, and the trials of the earlier ones go on without it. Of a computation and its
verification only the first is kept in this way: going backward, the later copy is tried first, while the earlier one
still stands in front of it.

What is in front of a segment never changes during its trials, so the keys and values of the whole trace are computed
once and every trial runs over the kept rest alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from .decision import sum_over_segments
from .integrated_gradients import Attribution
from .loading import process_state
from .passes import attribution_mode, split_target
from .sharding import Lockstep, Pass


# Three changed words in each of five steps that build on one another; a trial ends earlier once nothing changes
COUNTERFACTUAL_ROUNDS = 16

# Other contents take the place of contents (a number, a name); a whole other sentence would fit none of what stands
# behind it, since places do not move
_LONGEST_REWRITE = 4

# A forward and a backward pass cost about three forward passes
_FORWARDS_PER_GRADIENT = 3


def _in_long_run(changed: torch.Tensor) -> torch.Tensor:
    """Which of the changed places stand in a row of more than [`_LONGEST_REWRITE`]."""
    positions = torch.arange(len(changed), device=changed.device)
    first = torch.where(changed, -1, positions).cummax(0).values  # last unchanged place up to here
    after = torch.where(changed, len(changed), positions).flip(0).cummin(0).values.flip(0)
    return changed & (after - first - 1 > _LONGEST_REWRITE)


class BackwardSweep:
    r"""
    Scores segments by what the log-probability of the answer loses when they are left out, from the last to the first.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model whose cache can be cut off at any position. It is used in evaluation mode with frozen
            parameters and left as it was found.
        threshold (`float`, *optional*, defaults to `1.0`):
            A segment whose absence costs the answer less than this, in nats, stays out.
        rounds (`int`, *optional*, defaults to `0`):
            How often a trial may rewrite the kept text behind the segment. At 0 that text stays as it is, and a step
            whose result a later step already repeats costs nothing when it is left out. Otherwise tokens that the
            model was sure of with the segment in place are replaced by what it says without it, all of them at once in
            each round, until nothing changes: the loss of a step travels through the steps built on it down to the
            answer, whereas the loss of a wrong guess ends at the words that mention it. More than four changed tokens
            in a row are another sentence, not other contents, and stay as they were. A text that still changes after
            the last round does not count.
        max_tokens_per_forward (`int`, *optional*):
            Logits are made for a sixteenth of as many positions at a time. Defaults to 16,384.

    Raises:
        `ValueError`: If the threshold is not positive or the number of rounds is negative.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        threshold: float = 1.0,
        rounds: int = 0,
        max_tokens_per_forward: int | None = None,
    ):
        if not threshold > 0:
            raise ValueError(f"`threshold` is a loss in nats and must be positive, but {threshold} was passed.")
        if rounds < 0:
            raise ValueError(f"`rounds` counts and cannot be negative, but {rounds} was passed.")
        self.model, self.threshold, self.rounds = model, threshold, rounds
        self.lockstep = Lockstep(model)
        self.piece = max(1, (max_tokens_per_forward or 16384) // 16)

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
            [`Attribution`]: A segment's strength is the answer's loss in nats, 0 where it gains; `sum_signed` is 0, so
            that no segment counts as consistent. `evaluations` is the cost in gradient evaluations, rounded up.

        Raises:
            `ValueError`: If a span is not inside the sequence.
        """
        segments = list(segments)
        fed, answer = split_target(input_ids, target, segments)
        device = process_state().device if self.lockstep.active else self.model.get_input_embeddings().weight.device
        ids = torch.cat([fed, answer[-1:]]).to(device)
        self._tokens_run = 0
        with attribution_mode(self.model), torch.no_grad():
            cache = DynamicCache()
            log_probs, _ = self._run(cache, ids[:-1], ids[1:])
            # From here on entry t speaks about token t; nothing is said about the first token
            known = np.concatenate([[0.0], log_probs])
            self._layers = [(layer.keys, layer.values) for layer in cache.layers]

            end = segments[-1][1]
            rest, rest_known = ids[end:], known[end:]
            size, suffix = len(answer), len(rest)
            losses = np.zeros(len(segments))
            for index in range(len(segments) - 1, -1, -1):
                start, end = segments[index]
                if end == start:
                    continue
                # The words between reasoning and answer are ours, not the model's to rewrite
                sure = rest_known > np.log(0.5)
                sure[len(sure) - suffix :] = False
                before = rest_known[-size:].sum()
                losses[index], without = self._trial(ids, start, rest, sure, before, size)
                if losses[index] < self.threshold:
                    rest_known = without
                else:
                    rest = torch.cat([ids[start:end], rest])
                    rest_known = np.concatenate([known[start:end], rest_known])
        del self._layers

        num_tokens, _, _ = sum_over_segments(np.zeros(len(ids)), segments)
        forwards = self._tokens_run / len(ids)
        return Attribution(
            tokens=np.zeros(len(ids)),
            f_input=float(known[-size:].sum()),
            f_baseline=0.0,
            evaluations=int(np.ceil(forwards / _FORWARDS_PER_GRADIENT)),
            stopped_by="nodes",
            defect=float("nan"),
            num_tokens=num_tokens,
            sum_abs=np.maximum(losses, 0.0) * np.sqrt(num_tokens),
            sum_signed=np.zeros(len(segments)),
        )

    def _trial(self, ids, start, rest, sure, before, size) -> tuple[float, np.ndarray]:
        """The answer's loss without the segment that starts at `start`, and the log-probabilities of the tokens of the
        rest, as it stands, without it."""
        known, best = self._continue(ids, start, rest, rest)
        loss = after = before - known[-size:].sum()
        text, free = rest, torch.from_numpy(sure).to(rest.device)
        for _ in range(self.rounds):
            if loss >= self.threshold or not free.any():
                break
            changed = free & (best != rest)
            long = _in_long_run(changed)
            free &= ~long
            rewritten = torch.where(changed & ~long, best, rest)
            if torch.equal(rewritten, text):
                # Now the text is what the model would say: before, it may have been half of two sentences
                loss = max(loss, after)
                break
            text = rewritten
            values, best = self._continue(ids, start, text, rest)
            after = before - values[-size:].sum()
        return loss, known

    def _continue(self, ids, start, text, labels):
        """Log-probabilities of `labels` and the likeliest tokens at each of their places, after the first `start`
        tokens of the sequence and with `text` as input."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._layers):
            cache.update(keys[:, :, : start - 1], values[:, :, : start - 1], index)
        return self._run(cache, torch.cat([ids[start - 1 : start], text[:-1]]), labels)

    def _run(self, cache, inputs, labels) -> tuple[np.ndarray, torch.Tensor]:
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
