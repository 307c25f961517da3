"""Why a segment is kept or dropped, in a few words."""

from dataclasses import fields

import numpy as np

from ..selection import SelectionConfig, select_segments


VERDICTS = ("kept", "kept, always", "dropped, weak", "dropped, one-sided")


def segment_verdicts(
    num_tokens: np.ndarray, sum_abs: np.ndarray, sum_signed: np.ndarray, config: SelectionConfig
) -> list[str]:
    """
    One of [`VERDICTS`] per segment.

    Args:
        num_tokens (`np.ndarray`):
            Number of tokens of each segment, shape (segments,).
        sum_abs (`np.ndarray`):
            Sum of absolute token attributions of each segment, shape (segments,).
        sum_signed (`np.ndarray`):
            Sum of signed token attributions of each segment, shape (segments,).
        config ([`~trl_segment.SelectionConfig`]):
            Thresholds.

    Returns:
        `list[str]`: `"kept, always"` for the ends that are trained whatever their scores, `"kept"` for the others that
        are trained; `"dropped, weak"` where the stronger segments reach `tau` without it, `"dropped, one-sided"` where
        it is strong enough but its consistency is above `beta`.
    """
    kept = select_segments(num_tokens, sum_abs, sum_signed, config)
    # Of a subclass with arguments of its own only the thresholds
    thresholds = {field.name: getattr(config, field.name) for field in fields(SelectionConfig)}
    without_beta = SelectionConfig(**{**thresholds, "beta": 1.0, "keep_first": 0, "keep_last": 0})
    strong = select_segments(num_tokens, sum_abs, sum_signed, without_beta)
    verdicts = []
    for index in range(len(kept)):
        if not kept[index]:
            verdicts.append("dropped, one-sided" if strong[index] else "dropped, weak")
        elif index < config.keep_first or index >= len(kept) - config.keep_last:
            verdicts.append("kept, always")
        else:
            verdicts.append("kept")
    return verdicts
