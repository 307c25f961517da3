"""From a trace to the sequence that is attributed, or to the reason why there is none."""

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..models.inspection import neutral_token
from ..traces import AttributedSequence, Trace, attributed_sequence
from .config import AttributionConfig
from .scorers import SCORERS
from .scorers.baselines import baseline_token


def sequence_of(
    trace: Trace, tokenizer: PreTrainedTokenizerBase, model_config: PreTrainedConfig, config: AttributionConfig
) -> tuple[AttributedSequence | None, str | None]:
    """
    The attributed sequence of a trace.

    Args:
        trace ([`~trl_segment.Trace`]):
            Trace.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the attribution model.
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of that model; its positions bound the length.
        config ([`AttributionConfig`]):
            Settings.

    Returns:
        `tuple[AttributedSequence | None, str | None]`: The sequence, or `None` and why there is none.
    """
    if trace.problem is not None:
        return None, trace.problem
    if len(trace.segments) < 2:
        return None, "one segment only, nothing to select"
    sequence = attributed_sequence(
        trace, tokenizer, config.answer_template, config.answer_statements, _hidden_token(model_config, config)
    )
    if sequence.problem is not None:
        return None, sequence.problem
    longest = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and len(sequence.input_ids) > longest:
        return None, f"longer than the attribution model's {longest:,} positions"
    return sequence, None


def _hidden_token(model_config: PreTrainedConfig, config: AttributionConfig) -> int | None:
    """What stands in the place of hidden statements: the baseline's token, so that nothing moves there."""
    if config.answer_statements == "visible":
        return None
    has_baseline = "baseline" in SCORERS[config.attribution_scorer].options
    token = baseline_token(model_config, config.attribution_baseline) if has_baseline else None
    return neutral_token(model_config) if token is None else token
