"""What an attribution run would do, without a weight of the model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..traces import Trace, TraceConfig
from .config import AttributionConfig
from .quadrature import default_evaluations
from .runner import _sequence
from .store import AttributionStore


# Their cost is forward passes alone, which the estimate is not for
_GRADIENT_SCORERS = ("integrated_gradients", "gradient_x_input")


@dataclass
class AttributionPlan:
    """
    What a run would do.

    Args:
        traces (`int`):
            Traces seen.
        tokens (`list[int]`):
            Tokens of the attributed sequence of each trace that would be attributed.
        segments (`int`):
            Their segments.
        reused (`int`):
            Traces that the store holds.
        repeated (`int`):
            Traces that repeat an earlier one.
        skipped (`dict[str, list[str]]`):
            Names of the traces that cannot be attributed, by reason.
        most_evaluations (`float` or `None`):
            Gradient evaluations per trace, at most; `None` for scorers that take none.
        mean_evaluations (`float` or `None`):
            What traces of the store took on average.
        differences (`list[str]`):
            Settings of the store that are not those of this run, which would be refused.
    """

    traces: int = 0
    tokens: list[int] = field(default_factory=list)
    segments: int = 0
    reused: int = 0
    repeated: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    most_evaluations: float | None = None
    mean_evaluations: float | None = None
    differences: list[str] = field(default_factory=list)


def plan_attribution(
    traces: Iterable[tuple[str, Trace]],
    model_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore | None = None,
) -> AttributionPlan:
    """
    Say what [`~trl_segment.attribute_traces`] would do.

    Args:
        traces (`Iterable[tuple[str, Trace]]`):
            Names and traces.
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        store ([`AttributionStore`], *optional*):
            Store that the run would continue.

    Returns:
        [`AttributionPlan`]: The plan. Weights are not loaded, so whether the store is of the same weights is not said.
    """
    plan = AttributionPlan()
    if config.attribution_scorer in _GRADIENT_SCORERS:
        plan.most_evaluations = 1.0
        if config.attribution_scorer == "integrated_gradients":
            evaluations = config.attribution_evaluations or default_evaluations(config.attribution_rule)
            plan.most_evaluations = float(evaluations * max(1, config.attribution_noise_samples))
    if store is not None:
        plan.differences = _differences(store.settings, model_config, config)
        spent = [row.evaluations for row in store.values() if row.problem is None]
        plan.mean_evaluations = float(np.mean(spent)) if spent else None
    model = SimpleNamespace(config=model_config)  # all that is asked of it
    seen = set()
    for name, trace in traces:
        plan.traces += 1
        if trace.key in seen:
            plan.repeated += 1
        elif store is not None and not plan.differences and trace.key in store:
            plan.reused += 1
        else:
            sequence, problem = _sequence(trace, tokenizer, model, config)
            if problem is not None:
                plan.skipped.setdefault(problem, []).append(name)
            else:
                plan.tokens.append(len(sequence.input_ids))
                plan.segments += len(sequence.segments)
        seen.add(trace.key)
    return plan


def _differences(stored: Mapping[str, Any], model_config, config) -> list[str]:
    """Settings that can be compared without the model."""
    names = ("scorer", "rule", "tolerance", "stop", "noise_samples", "path", "baseline")
    evaluations = config.attribution_evaluations
    now = {
        "model_type": model_config.model_type,
        **{field.name: getattr(config, field.name) for field in fields(TraceConfig)},
        **{name: getattr(config, f"attribution_{name}") for name in names},
        "evaluations": default_evaluations(config.attribution_rule) if evaluations is None else evaluations,
        "answer_template": config.answer_template,
    }
    return [
        f"{key}: stored {stored.get(key)!r}, now {now[key]!r}" for key in sorted(now) if stored.get(key) != now[key]
    ]
