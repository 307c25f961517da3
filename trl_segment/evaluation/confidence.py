"""The log-probability of the right answer from parts of the reasoning: prefixes, or sets of segments."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from ..models import frozen_mode, plain_cache, slices_logits, split_target, unwrap_adapter


def answer_log_probs(
    model: PreTrainedModel,
    input_ids: Sequence[int] | np.ndarray | torch.Tensor,
    target: tuple[int, int],
    segments: Sequence[tuple[int, int]],
) -> np.ndarray:
    """
    Log-probability of the answer if the reasoning ended after each of its segments: what stands between the last
    segment and the answer follows each prefix.

    The prefix is run once and its keys and values are used for every end, where the model's attention allows.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model. Used in evaluation mode and left as it was found.
        input_ids (`Sequence[int]`, `np.ndarray` or `torch.Tensor`):
            Token IDs, shape (tokens,). What follows the target is ignored.
        target (`tuple[int, int]`):
            Token span of the answer.
        segments (`Sequence[tuple[int, int]]`):
            Token span of each segment, in order and without gaps.

    Returns:
        `np.ndarray`: In nats, shape (segments + 1,); entry 0 is without any reasoning, entry `i` after `i` segments.

    Raises:
        `ValueError`: If a span is not inside the sequence.
    """
    fed, answer = split_target(input_ids, target, segments)
    device = model.get_input_embeddings().weight.device
    fed, answer = fed.to(device), answer.to(device)
    suffix = fed[segments[-1][1] :]
    ends = [segments[0][0], *(end for _, end in segments)]
    values = []
    with frozen_mode(model), torch.inference_mode():
        layers = None
        if plain_cache(unwrap_adapter(model)) and segments[0][0] > 0:
            cache = DynamicCache()
            one = {"logits_to_keep": 1} if slices_logits(model) else {}
            model(input_ids=fed[None, : ends[-1]], past_key_values=cache, use_cache=True, **one)
            layers = [(layer.keys, layer.values) for layer in cache.layers]
        for end in ends:
            cache, start = None, 0
            if layers is not None:
                # The suffix can be empty of tokens to feed: the answer is then predicted from the prefix's last one
                start = min(end, end + len(suffix) - len(answer))
                cache = DynamicCache()
                for index, (keys, states) in enumerate(layers):
                    cache.update(keys[:, :, :start], states[:, :, :start], index)
            inputs = torch.cat([fed[start:end], suffix])
            values.append(_log_prob(model, inputs, answer, past_key_values=cache, use_cache=cache is not None))
    return np.array(values)


def subset_log_probs(
    model: PreTrainedModel,
    input_ids: Sequence[int] | np.ndarray | torch.Tensor,
    target: tuple[int, int],
    segments: Sequence[tuple[int, int]],
    sets: np.ndarray,
) -> np.ndarray:
    """
    Log-probability of the answer if the reasoning had only some of its segments, which close up.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model. Used in evaluation mode and left as it was found.
        input_ids (`Sequence[int]`, `np.ndarray` or `torch.Tensor`):
            Token IDs, shape (tokens,). What follows the target is ignored.
        target (`tuple[int, int]`):
            Token span of the answer.
        segments (`Sequence[tuple[int, int]]`):
            Token span of each segment, in order and without gaps.
        sets (`np.ndarray`):
            Which segments each set holds, bool, shape (sets, segments).

    Returns:
        `np.ndarray`: In nats, shape (sets,).

    Raises:
        `ValueError`: If a span is not inside the sequence.
    """
    fed, answer = split_target(input_ids, target, segments)
    device = model.get_input_embeddings().weight.device
    fed, answer = fed.to(device), answer.to(device)
    values = []
    with frozen_mode(model), torch.inference_mode():
        for chosen in np.asarray(sets, dtype=bool):
            stays = torch.ones(len(fed), dtype=torch.bool, device=device)
            for (start, end), stay in zip(segments, chosen.tolist(), strict=True):
                stays[start:end] = stay
            values.append(_log_prob(model, fed[stays], answer, use_cache=False))
    return np.array(values)


def _log_prob(model, inputs, answer, **kwargs) -> float:
    """Log-probability of the answer, whose last tokens but one are the last of the inputs."""
    keep = {"logits_to_keep": len(answer)} if slices_logits(model) else {}
    logits = model(input_ids=inputs[None], **keep, **kwargs).logits
    log_probs = logits[0, -len(answer) :].float().log_softmax(dim=-1)
    return log_probs.gather(-1, answer[:, None].to(log_probs.device)).sum().item()
