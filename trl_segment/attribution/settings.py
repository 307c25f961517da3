"""What a run's scores depend on, as a store keeps it."""

import hashlib
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..models.inspection import adapter_fingerprint, config_fingerprint, tokenizer_fingerprint, weights_fingerprint
from ..models.loading import check_tokenizer
from ..models.precision import precision_of
from ..models.sharding import check_sharding
from ..selection import SelectionConfig
from ..store import CUSTOM_SEGMENTER, StoreSettings
from ..traces import Segmenter, describe_segmenter
from .config import AttributionConfig
from .scorers import SCORERS
from .scorers.baselines import resolve_baseline


def attribution_settings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    autocast: str = "no",
    segmenter: Segmenter | None = None,
    selection: SelectionConfig | None = None,
    adapter: bool = True,
) -> StoreSettings:
    """
    Everything that changes the scores of a trace, for the store.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        autocast (`str`, *optional*, defaults to `"no"`):
            Mixed precision that accelerate runs the model in.
        segmenter (`Callable`, *optional*):
            A function of the user's that cuts the segments, in place of `config.segmenter`.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that the scores are for, with `attribution_stop="decision"`.
        adapter (`bool`, *optional*, defaults to `True`):
            Whether the adapter of a PEFT model is on.

    Returns:
        [`~trl_segment.store.StoreSettings`]: The settings.

    Raises:
        `NotImplementedError`: If FSDP1 has wrapped the model.
        `ValueError`: If the model has no token that serves as the baseline, or the tokenizer knows no text.
    """
    check_sharding(model)
    check_tokenizer(tokenizer)
    if "baseline" in SCORERS[config.attribution_scorer].options:
        resolve_baseline(model, config.attribution_baseline)  # refuses what the model does not have
    return _settings(
        model.config,
        tokenizer,
        config,
        autocast,
        segmenter,
        selection,
        weights=weights_fingerprint(model),
        dtype=precision_of(model),
        adapter=adapter_fingerprint(model) if adapter else "off",
    )


def planned_settings(
    model_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    autocast: str = "no",
    selection: SelectionConfig | None = None,
) -> StoreSettings:
    """
    As much of [`attribution_settings`] as is known before a weight is loaded.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        autocast (`str`, *optional*, defaults to `"no"`):
            Mixed precision that the run would have.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that the scores are for.

    Returns:
        [`~trl_segment.store.StoreSettings`]: Weights, their precision and the adapter are `None`.
    """
    return _settings(model_config, tokenizer, config, autocast, None, selection)


def _settings(model_config, tokenizer, config, autocast, segmenter, selection, **model: Any) -> StoreSettings:
    custom, source = None, None
    name = config.segmenter
    if segmenter is not None or ":" in config.segmenter:
        custom, source = describe_segmenter(segmenter or config.segmenter)
        name = CUSTOM_SEGMENTER
    return StoreSettings(
        model_type=model_config.model_type,
        config=config_fingerprint(model_config),
        tokenizer=tokenizer_fingerprint(tokenizer),
        chat_template=hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()[:16],
        autocast=autocast,
        segmenter=name,
        custom_segmenter=custom,
        segmenter_source=source,
        segment_pattern=config.segment_pattern if custom is None else None,
        answer_column=config.answer_column,
        question_template=config.question_template,
        reasoning_start=config.reasoning_start,
        reasoning_end=config.reasoning_end,
        question_column=config.question_column,
        solution_column=config.solution_column,
        reasoning_column=config.reasoning_column,
        response_column=config.response_column,
        answer_template=config.answer_template,
        answer_statements=config.answer_statements,
        scorer=config.attribution_scorer,
        options=SCORERS[config.attribution_scorer].stored_options(config, model_config, selection),
        **{"weights": None, "dtype": None, "adapter": None, **model},
    )
