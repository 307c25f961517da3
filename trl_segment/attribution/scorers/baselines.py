"""Where the path of Integrated Gradients starts: a token, or a vector."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...models.sharding import gathered, is_dtensor, is_zero3
from ...printing import get_logger
from ..choices import BASELINES


logger = get_logger(__name__)


def baseline_token(model_config: PreTrainedConfig, baseline: str | int) -> int | None:
    """
    The token that a baseline's name stands for.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Names the special tokens.
        baseline (`str` or `int`):
            See [`IntegratedGradients`]. Digits count as a token ID.

    Returns:
        `int` or `None`: Its ID; `None` for `"zero"` and `"mean"`, which are no tokens.

    Raises:
        `ValueError`: If the name is unknown or the model has no such token.
    """
    if isinstance(baseline, int) or baseline.isdigit():
        return int(baseline)
    if baseline not in BASELINES:
        raise ValueError(
            f"Unknown baseline {baseline!r}. Pass one of {', '.join(map(repr, BASELINES))}, or a token ID."
        )
    if baseline in ("zero", "mean"):
        return None
    token_id = getattr(model_config.get_text_config(), f"{baseline}_token_id")
    token_id = token_id[0] if isinstance(token_id, (list, tuple)) else token_id
    if token_id is None:
        raise ValueError(
            f"The baseline {baseline!r} needs the embedding of a {baseline} token, but `model.config` names none. "
            f"Set `model.config.{baseline}_token_id`, or choose another baseline with `attribution_baseline`: a "
            "token ID, 'mean' or 'zero'" + (" or 'eos'." if baseline == "pad" else ".")
        )
    return token_id


def resolve_baseline(model: PreTrainedModel, baseline: str | int) -> int | torch.Tensor:
    """
    The token ID or the vector that a baseline's name stands for.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Its config names the tokens, its embedding module holds the vectors.
        baseline (`str` or `int`):
            See [`IntegratedGradients`]. Digits count as a token ID.

    Returns:
        `int` or `torch.Tensor`: A token ID, or a vector of shape (hidden,).

    Raises:
        `ValueError`: If the name is unknown or the model has no such token.
    """
    embedding = model.get_input_embeddings()
    token_id = baseline_token(model.config, baseline)
    if token_id is None:
        return torch.zeros(_embedding_dim(embedding)) if baseline == "zero" else _mean_embedding(embedding)
    num_embeddings = getattr(embedding, "num_embeddings", model.config.get_text_config().vocab_size)
    if not 0 <= token_id < num_embeddings:
        raise ValueError(f"The baseline token {token_id} is not one of the model's {num_embeddings:,} embeddings.")
    with gathered(embedding.weight) as weight:
        if weight.ndim == 2 and len(weight) > token_id:  # a quantized table has another shape
            norms = weight[token_id].float().norm(), weight.float().norm(dim=1).median()
            if norms[0] < 0.1 * norms[1]:
                logger.warning(
                    f"The embedding of the baseline token {token_id} ({baseline!r}) has norm {norms[0]:.2g}, against "
                    f"a median of {norms[1]:.2g}: it was probably never trained. Most of the path's mass then lies "
                    "next to the baseline, where a rule with fixed nodes misses it. Consider `attribution_baseline` "
                    "'eos', 'mean' or a token ID."
                )
    return token_id


def _embedding_dim(embedding: torch.nn.Module) -> int:
    with gathered(embedding.weight) as weight:
        return weight.shape[-1]


@torch.no_grad()
def _mean_embedding(embedding: torch.nn.Module) -> torch.Tensor:
    """Mean of what the module puts out, which some models scale, shape (hidden,), float32."""
    own = embedding.weight
    with gathered(own) as weight:
        ids = torch.arange(len(weight), device=weight.device).split(8192)
        if not is_dtensor(own):
            # The module's hooks would give a ZeRO-3 parameter back
            run = embedding.forward if is_zero3(own) else embedding
            return sum(run(part).float().sum(dim=0) for part in ids) / len(weight)
        # As it is, whatever FSDP2 keeps of it
        embedding._parameters["weight"] = torch.nn.Parameter(weight, requires_grad=False)
        try:
            return sum(embedding.forward(part).float().sum(dim=0) for part in ids) / len(weight)
        finally:
            embedding._parameters["weight"] = own
