"""Token weights in TRL's loss, and the loss on kept segments beside it, through the outputs of the model."""

import torch

from ._trl_compat import LABEL_MASK, LOG_PROBS


class WeightedLogProbs:
    """
    A model whose per-token log-probabilities come out weighted; everything else is the model's.

    Args:
        model (`Callable`):
            Model with TRL's fused LM head.
        weights (`torch.Tensor`):
            Weight of each token, shape (batch, tokens).
    """

    def __init__(self, model, weights: torch.Tensor):
        self.model, self.weights = model, weights

    def __call__(self, **inputs):
        outputs = self.model(**inputs)
        if LOG_PROBS in outputs:  # not where the logits are asked for instead
            outputs.log_probs = outputs.log_probs * _behind_virtual_tokens(self.weights, outputs.log_probs)
        return outputs


class SelectiveLoss:
    """
    A model that notes the loss on kept segments of its outputs.

    Args:
        model (`Callable`):
            Model with TRL's fused LM head.
        kept_tokens (`torch.Tensor`):
            0 for a token of a dropped segment, else 1, shape (batch, tokens).

    Attributes:
        total (`torch.Tensor`):
            Sum of the loss on kept tokens in nats, and their number, shape (2,), of the last call.
    """

    def __init__(self, model, kept_tokens: torch.Tensor):
        self.model, self.kept_tokens = model, kept_tokens
        self.total = torch.zeros(2, device=kept_tokens.device)

    def __call__(self, **inputs):
        outputs = self.model(**inputs)
        if LOG_PROBS in outputs:
            kept = _behind_virtual_tokens(self.kept_tokens, outputs.log_probs)
            counted = (outputs[LABEL_MASK] * kept).sum()
            self.total = torch.stack([-(outputs.log_probs * kept).sum(), counted]).detach()
        return outputs


def sum_weights(weights: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Sum of the weights of the tokens that are predicted: the first of a row is not.

    Args:
        weights (`torch.Tensor`):
            Weight of each token, shape (batch, tokens).
        labels (`torch.Tensor`):
            Labels, -100 for tokens without loss, of the same shape.

    Returns:
        `torch.Tensor`: A number.
    """
    return weights[:, 1:][labels[:, 1:] != -100].sum()


def _behind_virtual_tokens(weights, log_probs):
    """Weights of the tokens that `log_probs` are of; prompt tuning puts virtual tokens in front."""
    shifted = weights[:, 1:].to(log_probs)
    return torch.nn.functional.pad(shifted, (log_probs.shape[1] - shifted.shape[1], 0), value=1.0)
