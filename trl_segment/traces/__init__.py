"""Text: segments, reasoning, answers, and where they lie among the tokens. No torch."""

from .alignment import (
    ANSWER_TEMPLATE,
    AttributedSequence,
    attributed_sequence,
    encode_with_spans,
    join_completion,
    locate_segments,
    render_prompt,
    segment_of_tokens,
    training_units,
)
from .answers import extract_answer, extract_boxed
from .segmentation import (
    PAPER_KEYWORDS,
    RETRO_SEARCH_KEYWORDS,
    SEGMENTERS,
    Segmenter,
    check_segmenter,
    describe_segmenter,
    load_segmenter,
    segment_text,
)
from .trace import (
    QUESTION_TEMPLATE,
    Trace,
    TraceConfig,
    build_trace,
    find_reasoning,
    naming_errors,
    read_text,
    row_name,
    template_kwargs,
)


__all__ = [
    "ANSWER_TEMPLATE",
    "PAPER_KEYWORDS",
    "QUESTION_TEMPLATE",
    "RETRO_SEARCH_KEYWORDS",
    "SEGMENTERS",
    "AttributedSequence",
    "Segmenter",
    "Trace",
    "TraceConfig",
    "attributed_sequence",
    "build_trace",
    "check_segmenter",
    "describe_segmenter",
    "encode_with_spans",
    "extract_answer",
    "extract_boxed",
    "find_reasoning",
    "join_completion",
    "load_segmenter",
    "locate_segments",
    "naming_errors",
    "read_text",
    "render_prompt",
    "row_name",
    "segment_of_tokens",
    "segment_text",
    "template_kwargs",
    "training_units",
]
