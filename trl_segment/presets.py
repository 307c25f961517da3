"""Settings that belong together, under one name."""

from dataclasses import fields
from typing import Any


# The published procedure (arXiv 2602.00425 and its code), attribution and selection
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "attribution_scorer": "integrated_gradients",
        "attribution_path": "all",
        "attribution_rule": "paper",
        "attribution_evaluations": 50,
        "attribution_baseline": "pad",
        "attribution_noise_samples": 0,
        "answer_statements": "visible",
        "tau": 0.7,
        "beta": 0.8,
        "consistency_scale": "absolute",
        "keep_first": 1,
        "keep_last": 2,
        "transition": "after_kept",
    },
}


def apply_preset(config: Any) -> None:
    """
    Give a config the values of its `attribution_preset`, as far as it has the fields.

    Args:
        config (`Any`):
            A dataclass instance with `attribution_preset`. It is changed in place.

    Raises:
        `ValueError`: If there is no such preset, or a field was set to a third value, neither the default nor the
            preset's.
    """
    name = config.attribution_preset
    if name is None:
        return
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}. Pass one of {', '.join(map(repr, PRESETS))}.")
    defaults = {field.name: field.default for field in fields(config)}
    for field, value in PRESETS[name].items():
        if field not in defaults:
            continue
        given = getattr(config, field)
        if given not in (defaults[field], value):
            raise ValueError(
                f"`attribution_preset={name!r}` sets `{field}` to {value!r}, but {given!r} was passed. Leave one of "
                "the two out."
            )
        setattr(config, field, value)
