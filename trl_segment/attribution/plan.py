"""What an attribution run would do, without a weight of the model."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..selection import SelectionConfig
from ..store import AttributionStore
from ..traces import Trace
from .config import AttributionConfig
from .scorers import SCORERS
from .sequences import sequence_of
from .settings import planned_settings


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
        notes (`dict[str, list[str]]`):
            Names of the traces in which something was taken that the row does not say, by what was taken.
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
    notes: dict[str, list[str]] = field(default_factory=dict)
    most_evaluations: float | None = None
    mean_evaluations: float | None = None
    differences: list[str] = field(default_factory=list)


def plan_attribution(
    traces: Iterable[tuple[str, Trace]],
    model_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore | None = None,
    autocast: str = "no",
    selection: SelectionConfig | None = None,
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
        autocast (`str`, *optional*, defaults to `"no"`):
            Mixed precision that the run would have.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that the scores are for, with `attribution_stop="decision"`.

    Returns:
        [`AttributionPlan`]: The plan. Weights are not loaded, so whether the store is of the same weights is not said.
    """
    plan = AttributionPlan(most_evaluations=SCORERS[config.attribution_scorer].most_evaluations(config))
    if store is not None:
        now = planned_settings(model_config, tokenizer, config, autocast, selection)
        plan.differences = store.settings.differences(now)
        spent = [row.evaluations for row in store.values() if row.problem is None]
        plan.mean_evaluations = float(np.mean(spent)) if spent else None
    seen = set()
    for name, trace in traces:
        plan.traces += 1
        if trace.note is not None:
            plan.notes.setdefault(trace.note, []).append(name)
        if trace.key in seen:
            plan.repeated += 1
        elif store is not None and not plan.differences and trace.key in store:
            plan.reused += 1
        else:
            sequence, problem = sequence_of(trace, tokenizer, model_config, config)
            if problem is not None:
                plan.skipped.setdefault(problem, []).append(name)
            else:
                plan.tokens.append(len(sequence.input_ids))
                plan.segments += len(sequence.segments)
        seen.add(trace.key)
    return plan
