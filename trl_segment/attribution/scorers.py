r"""
Other scores behind the face of [`IntegratedGradients`]: the comparisons of the paper, and gradient times input.

All return an [`Attribution`]. Gradient times input is signed token by token, like Integrated Gradients. The others
score a segment as a whole; they report `sum_abs = score * sqrt(n)` so that the segment's strength is the score, and
`sum_signed = 0` so that no segment is dropped for its consistency.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from .decision import sum_over_segments
from .integrated_gradients import Attribution
from .passes import EmbeddingSwap, Passes, attribution_mode, split_target
from .sharding import Lockstep, Pass


SWEEPS = ("marginal", "counterfactual")
SCORERS = (
    "integrated_gradients",
    "gradient_x_input",
    "recursive",
    *SWEEPS,
    "perplexity",
    "entropy",
    "confidence_gain",
    "random",
)


class SegmentScorer:
    r"""
    Scores the segments of a sequence without integrating.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model. It is used in evaluation mode with frozen parameters and left as it was found.
        scorer (`str`):
            - `"gradient_x_input"`: gradient of the target's log-probability times the embedding, summed over the
              embedding dimension; one gradient evaluation.
            - `"perplexity"`: mean surprisal of the segment's tokens, in nats; one forward pass.
            - `"entropy"`: mean entropy of the predictions of the segment's tokens, in nats; one forward pass.
            - `"confidence_gain"`: what the segment adds to the target's log-probability: with everything up to its end
              in front of the suffix, minus the same up to its start; 0 where it adds nothing. One forward pass per
              segment and one more.
            - `"random"`: uniform in [0, 1), from the sequence's own tokens, so the same every time.
        max_tokens_per_forward (`int`, *optional*):
            Perplexity and entropy need logits at every position of the reasoning. They are made for a sixteenth of as
            many positions at a time, in one forward pass each. Defaults to 16,384.

    Raises:
        `ValueError`: On an unknown scorer.
    """

    def __init__(self, model: PreTrainedModel, scorer: str, max_tokens_per_forward: int | None = None):
        known = [name for name in SCORERS if name not in ("integrated_gradients", "recursive", *SWEEPS)]
        if scorer not in known:
            raise ValueError(f"Unknown scorer {scorer!r}. Pass one of {', '.join(map(repr, known))}.")
        self.model = model
        self.lockstep = Lockstep(model)
        self.scorer = scorer
        self.max_tokens_per_forward = max_tokens_per_forward or 16384

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
                Token span of each segment, in order.

        Returns:
            [`Attribution`]: `tokens` holds token scores where the scorer has them, else zeros; `f_baseline` is 0.

        Raises:
            `ValueError`: If a span is not inside the sequence.
        """
        segments = list(segments)
        ids, targets = split_target(input_ids, target, segments)
        with attribution_mode(self.model), EmbeddingSwap(self.model.get_input_embeddings()) as swap:
            run = Passes(self.model, swap, ids, targets, self.lockstep)
            f_input, real = run.capture(ids)
            tokens = np.zeros(len(ids) + 1)
            evaluations, scores = 0, None
            if self.scorer == "gradient_x_input":
                (evaluation,) = run.evaluate([1.0], real, torch.zeros_like(real))
                tokens[:-1], evaluations = evaluation.integrand, 1
            elif self.scorer == "confidence_gain":
                scores = self._confidence_gain(run, ids, target, segments)
            elif self.scorer == "random":
                generator = np.random.default_rng(ids.numpy())
                scores = generator.random(len(segments))
            else:
                tokens[1:-1] = self._predictions(run, ids)
                scores = [tokens[a:b].mean() if b > a else 0.0 for a, b in segments]

        num_tokens, sum_abs, sum_signed = sum_over_segments(tokens, segments)
        if scores is not None:
            sum_abs = np.asarray(scores) * np.sqrt(num_tokens)
            sum_signed = np.zeros(len(segments))
        return Attribution(
            tokens=tokens,
            f_input=f_input,
            f_baseline=0.0,
            evaluations=evaluations,
            stopped_by="nodes",
            defect=float("nan"),
            num_tokens=num_tokens,
            sum_abs=sum_abs,
            sum_signed=sum_signed,
        )

    def _confidence_gain(self, run, ids, target, segments) -> np.ndarray:
        suffix = ids[segments[-1][1] :]
        values = []
        for end in (segments[0][0], *(end for _, end in segments)):
            shortened = Passes(self.model, run.swap, torch.cat([ids[:end], suffix]), run.targets, self.lockstep)
            values.append(shortened.capture(shortened.ids)[0])
        return np.maximum(np.diff(values), 0.0)

    @torch.no_grad()
    def _predictions(self, run, ids) -> np.ndarray:
        """Surprisal or entropy of every token but the first, shape (tokens - 1,)."""
        run.swap.replacement = None
        inputs, parts = run.ids[None], []
        # A position's logits are float32 over the whole vocabulary, some hundred times what its activations take
        step = max(1, self.max_tokens_per_forward // 16) if run.slices_logits else len(ids)
        for first in range(0, len(ids) - 1, step):
            positions = torch.arange(first, min(first + step, len(ids) - 1), device=run.ids.device)
            keep = {"logits_to_keep": positions} if run.slices_logits else {}
            self.lockstep.agree(Pass.FORWARD)  # these scorers make no other passes
            logits = self.model(input_ids=inputs, use_cache=False, **keep).logits[0]
            log_probs = (logits if run.slices_logits else logits[:-1]).float().log_softmax(dim=-1)
            if self.scorer == "entropy":
                parts.append(-(log_probs.exp() * log_probs).sum(dim=-1))
            else:
                following = run.ids[positions + 1].to(log_probs.device)
                parts.append(-log_probs.gather(-1, following[:, None])[:, 0])
        return torch.cat(parts).double().cpu().numpy()
