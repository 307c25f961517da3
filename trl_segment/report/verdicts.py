"""Why a segment is kept or dropped, in a few words."""

from dataclasses import fields

import numpy as np

from ..selection import SelectionConfig, select_segments


VERDICTS = ("kept", "kept, always", "dropped, weak", "dropped, one-sided", "dropped, against")


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
        are trained; `"dropped, weak"` where the stronger segments reach `tau` without it (or it is under
        `min_strength`), `"dropped, against"` where it is strong enough but its direction is under `min_direction`,
        `"dropped, one-sided"` where its consistency alone is above `beta`.
    """
    kept = select_segments(num_tokens, sum_abs, sum_signed, config)
    # Of a subclass with arguments of its own only the thresholds
    thresholds = {field.name: getattr(config, field.name) for field in fields(SelectionConfig)}
    anything = {"beta": 1.0, "min_direction": -1.0, "keep_first": 0, "keep_last": 0}
    strong = select_segments(num_tokens, sum_abs, sum_signed, SelectionConfig(**{**thresholds, **anything}))
    against = np.asarray(sum_signed) < config.min_direction * np.asarray(sum_abs)
    verdicts = []
    for index in range(len(kept)):
        if not kept[index]:
            reason = "weak" if not strong[index] else "against" if against[index] else "one-sided"
            verdicts.append(f"dropped, {reason}")
        elif index < config.keep_first or index >= len(kept) - config.keep_last:
            verdicts.append("kept, always")
        else:
            verdicts.append("kept")
    return verdicts
