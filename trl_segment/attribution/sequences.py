"""From a trace to the sequence that is attributed, or to the reason why there is none."""

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..models.inspection import neutral_token
from ..traces import AttributedSequence, GeneratedTokens, Trace, attributed_sequence, generated_sequence
from .config import AttributionConfig
from .scorers import SCORERS
from .scorers.baselines import baseline_token


def sequence_of(
    trace: Trace,
    tokenizer: PreTrainedTokenizerBase,
    model_config: PreTrainedConfig,
    config: AttributionConfig,
    generated: GeneratedTokens | None = None,
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
        generated ([`~trl_segment.traces.GeneratedTokens`], *optional*):
            The tokens of a trace that the model itself has written. By default the text is tokenized.

    Returns:
        `tuple[AttributedSequence | None, str | None]`: The sequence, or `None` and why there is none.
    """
    if trace.problem is not None:
        return None, trace.problem
    if len(trace.segments) < 2:
        return None, "one segment only, nothing to select"
    options = config.answer_template, config.answer_statements, _hidden_token(model_config, config)
    if generated is None:
        sequence = attributed_sequence(trace, tokenizer, *options)
    else:
        sequence = generated_sequence(trace, tokenizer, generated, *options)
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
