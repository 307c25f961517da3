"""
What others score segments by: how they open, the rest without them, attention to them, where the answer first stands.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache

from ...models.frozen import frozen_mode
from ...models.inspection import slices_logits, unwrap_adapter
from ...models.passes import EmbeddingSwap, Passes, split_target
from ...selection import SegmentScores
from .base import Attribution, Scorer
from .predictions import ConfidenceGain, Perplexity, RandomScores, segment_lengths


# Tokens at the start of a segment that say what kind of step it is
_OPENING_TOKENS = 5


class OpeningSurprisal(Perplexity):
    """Mean surprisal of the first five tokens of a segment, in nats: one forward pass. Forks open with rare words."""

    name = "opening_surprisal"
    summary = "mean surprisal of a segment's first five tokens"

    def _read(self, start: int, end: int) -> tuple[int, int]:
        return start, min(end, start + _OPENING_TOKENS)


# How a segment that checks what was done opens, behind any of the words that people and models hesitate with
_HESITATION = r"(?:(?:but|so|ok|okay|hmm+|well|now|and|yes|also|actually|alternatively)\b[\s,.!:-]{0,8})"
_CHECK = r"(?:(?:double|re)[\s-]?)?(?:check|verif|confirm|examin|consider|validat)|make sure|be sure"
_VERIFIES = re.compile(
    rf"\W{{0,16}}{_HESITATION}{{0,4}}(?:wait\b|hold on\b|just to\b"
    rf"|(?:let(?:'s|’s| us| me)|to|i(?:'ll|’ll| should| need to| will)|we (?:can|should))\s+"
    rf"(?:(?:just|also|now|quickly|again)\s+){{0,2}}(?:{_CHECK})|(?:{_CHECK})(?:y|ing|ying)?\b)",
    re.IGNORECASE,
)


class VerificationOpener(RandomScores):
    """
    0 for a segment that opens as a check of what was done ("Wait", "Let me verify", "To double-check"), 1 for any
    other: what a filter by words keeps. One forward pass, for the answer's log-probability alone. Select with
    `selection="threshold"` and `min_strength=1`.
    """

    name = "verification_opener"
    summary = "whether a segment opens as something else than a check"
    reads_text = True

    def attribute(self, input_ids, target, segments, texts: Sequence[str]):
        result = super().attribute(input_ids, target, segments)
        scores = [float(_VERIFIES.match(text) is None) for text in texts]
        return Attribution(SegmentScores(segment_lengths(segments), scores=scores), result.f_input)


class RestPerplexity(Perplexity):
    """
    By how much the tokens behind a segment, up to the answer's last, become more surprising on average when it is left
    out, in nats a token; 0 if they become less (the measure of SPIRIT, arXiv 2502.13260; PIR, arXiv 2505.19187, reads
    the answer alone). One forward pass per segment and one more.
    """

    name = "rest_perplexity"
    summary = "how much more surprising the rest is without a segment"
    unit = "nats a token"

    def attribute(self, input_ids, target, segments):
        fed, targets = split_target(input_ids, target, segments)
        ids = torch.cat([fed, targets[-1:]])
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:

            def surprisals(text):
                return self._of_tokens(Passes(self.model, swap, text, targets, self.lockstep), text)

            whole = surprisals(ids)
            losses = np.zeros(len(segments))
            for index, (start, end) in enumerate(segments):
                if end > start:
                    without = surprisals(torch.cat([ids[:start], ids[end:]]))
                    losses[index] = without[start - 1 :].mean() - whole[end - 1 :].mean()
        f_input = -float(whole[-len(targets) :].sum())
        return Attribution(SegmentScores(segment_lengths(segments), scores=np.maximum(losses, 0.0)), f_input)


class AnswerAttention(Scorer):
    """
    Mean attention that a token of the segment gets from the positions that predict the answer, over all heads and
    layers: one forward pass. Attention says what was looked at, not what it did to the answer.
    """

    name = "attention"
    summary = "mean attention from the answer to a segment's tokens"
    unit = ""

    def attribute(self, input_ids, target, segments):
        if self.lockstep.active:
            raise NotImplementedError(
                "The scorer 'attention' cannot run on a model whose parameters are spread over processes (ZeRO-3, "
                "FSDP2). Make the attributions first with `trl-segment attribute`, or use another scorer."
            )
        fed, targets = split_target(input_ids, target, segments)
        ids = fed.to(self.model.get_input_embeddings().weight.device)
        base = unwrap_adapter(self.model)
        kernel, cut = base.config._attn_implementation, len(ids) - len(targets)
        with frozen_mode(self.model), torch.no_grad():
            cache = DynamicCache(config=base.config)
            if cut > 0:
                keep = {"logits_to_keep": 1} if slices_logits(self.model) else {}
                self.model(input_ids=ids[None, :cut], past_key_values=cache, use_cache=True, **keep)
            try:
                # Only this kernel has the weights, and it only makes those of the last few positions here
                base.set_attn_implementation("eager")
                output = self.model(
                    input_ids=ids[None, cut:], past_key_values=cache, use_cache=True, output_attentions=True
                )
            finally:
                base.set_attn_implementation(kernel)
        if not output.attentions or any(layer is None for layer in output.attentions):
            raise ValueError(f"{type(base).__name__} has layers without attention. Use another scorer.")
        # A layer with a window knows the keys in it alone, which are the last ones
        received = np.zeros(len(ids))
        for layer in output.attentions:
            keys = layer[0].float().mean(dim=(0, 1)).double().cpu().numpy()
            received[len(ids) - len(keys) :] += keys / len(output.attentions)
        log_probs = output.logits[0].float().log_softmax(dim=-1)
        f_input = log_probs.gather(-1, targets.to(log_probs.device)[:, None]).sum().item()
        scores = [received[start:end].mean() if end > start else 0.0 for start, end in segments]
        return Attribution(SegmentScores(segment_lengths(segments), scores=scores), f_input)


class FirstCorrect(ConfidenceGain):
    """
    1 for every segment up to the first after which the answer stands, 0 for those behind it (First-Correct-Solution).
    The answer stands where its log-probability, with the reasoning cut there, is at most `threshold` under that of the
    whole reasoning, there and at all later cuts. One forward pass per segment and one more. Select with
    `selection="threshold"` and `min_strength=1`.
    """

    name = "first_correct"
    summary = "everything up to where the answer first stands"
    unit = ""
    options = ("threshold",)

    def __init__(self, model, threshold: float = 1.0, max_tokens_per_forward: int | None = None):
        super().__init__(model, max_tokens_per_forward)
        self.threshold = threshold

    @classmethod
    def from_config(cls, model, config, selection=None):
        return cls(model, config.attribution_threshold, config.attribution_max_tokens)

    def _scores(self, values: np.ndarray) -> np.ndarray:
        missing = np.flatnonzero(values < values[-1] - self.threshold)
        # Entry 0 is without any reasoning: then no segment is needed, and the first alone is kept
        last = missing[-1] if len(missing) else 0
        return (np.arange(len(values) - 1) <= last).astype(float)


class NecessityAndSufficiency(Scorer):
    """
    Mean of what the probability of the answer loses without the segment, and of what it gains from the segment alone,
    each 0 where it goes the other way (as the true-thinking score of arXiv 2510.24941, which perturbs steps where this
    leaves them out). Two forward passes per segment and two more.
    """

    name = "necessity_sufficiency"
    summary = "what the answer loses without a segment and gains from it alone"
    unit = "probability"

    def attribute(self, input_ids, target, segments):
        ids, targets = split_target(input_ids, target, segments)
        before, behind = ids[: segments[0][0]], ids[segments[-1][1] :]
        with frozen_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:

            def log_probability(*parts):
                run = Passes(self.model, swap, torch.cat(parts), targets, self.lockstep)
                return run.capture(run.ids)[0]

            f_input, empty = log_probability(ids), log_probability(before, behind)
            scores = np.zeros(len(segments))
            for index, (start, end) in enumerate(segments):
                if end > start:
                    without = log_probability(ids[:start], ids[end:])
                    alone = log_probability(before, ids[start:end], behind)
                    loss, gain = np.exp(f_input) - np.exp(without), np.exp(alone) - np.exp(empty)
                    scores[index] = (max(loss, 0.0) + max(gain, 0.0)) / 2
        return Attribution(SegmentScores(segment_lengths(segments), scores=scores), f_input)
