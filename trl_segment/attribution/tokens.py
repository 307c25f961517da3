"""Token attributions of one trace, which stores do not hold."""

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..selection import SelectionConfig
from ..store import AttributionStore
from ..traces import Trace, join_completion, render_prompt
from .config import AttributionConfig
from .runner import learn_from, make_scorer
from .scorers import Attribution
from .sequences import sequence_of


def attribute_tokens(
    trace: Trace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore,
    selection: SelectionConfig | None = None,
) -> tuple[np.ndarray, np.ndarray, Attribution]:
    """
    Attribute one trace and keep every token's score, which stores do not.

    Args:
        trace ([`~trl_segment.Trace`]):
            A trace that can be attributed.
        model ([`~transformers.PreTrainedModel`]):
            Attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        store ([`AttributionStore`]):
            Store of the same settings; the rule `"density"` finds its nodes there.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that the scores are for, with `attribution_stop="decision"`.

    Returns:
        `tuple[np.ndarray, np.ndarray, Attribution]`: For each token of the reasoning its first character in
        `trace.completion` and its signed attribution in nats, both of shape (tokens,), and the whole result.

    Raises:
        `ValueError`: If the trace cannot be attributed.
    """
    scorer = make_scorer(model, config, selection)
    sequence, problem = sequence_of(trace, tokenizer, model.config, config)
    if problem is None and not scorer.token_attributions:
        problem = f"the scorer {config.attribution_scorer!r} scores segments as a whole"
    if problem is not None:
        raise ValueError(f"This trace has no token attributions: {problem}.")
    learn_from(scorer, [trace], tokenizer, config, store)
    result = scorer.attribute(sequence.input_ids, sequence.target, sequence.segments)
    first, last = sequence.segments[0][0], sequence.segments[-1][1]
    prompt = render_prompt(trace, tokenizer)
    shift = len(prompt) - join_completion(prompt, trace.completion)[1]
    return sequence.spans[first:last, 0] - shift, result.tokens[first:last], result
