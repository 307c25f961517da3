r"""
Where characters lie among tokens.

A segment that starts at `\n\nWait` usually starts inside a token (`.\n\n` is one token for Qwen2 and Llama 3), so
tokens are never counted from a segment's own text. One rule holds everywhere: a token belongs to the segment that
holds its first character, read off the tokenizer's offset mapping.
"""

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from .marks import DEFAULT_CLOSING, opening_mark
from .statements import STATEMENTS, find_statements
from .trace import Span, Trace, message_text


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The paper's suffix: it ends the reasoning and asks for the answer.
ANSWER_TEMPLATE = "</think> So, the final answer is \\boxed{{answer}}"

# Answers of the usual problem sets have a few tokens, the longest in a thousand about a hundred
MOST_ANSWER_TOKENS = 64

# Bytes of the longest character, each of which may be a token
_MOST_BYTES = 4

# White space and the first word, or one symbol where a segment does not open with a word
_OPENING = re.compile(r"\s*(?:\w+|\S)?")


class UnplacedError(ValueError):
    """
    The segments of a trace cannot be placed in its training text, so that it can only be trained in full.

    Args:
        message (`str`):
            What is wrong with the trace at hand, and what to do if it is so with all of them.
        reason (`str`):
            The same in a few words that fit every such trace.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class AttributedSequence:
    """
    What the attribution model reads: prompt, reasoning, and the suffix up to the last token of the answer.

    Args:
        input_ids (`np.ndarray`):
            Token IDs, shape (tokens,).
        target (`tuple[int, int]`):
            Token span of the answer. It ends the sequence.
        segments (`list[tuple[int, int]]`):
            Token span of each segment, in order.
        spans (`np.ndarray`):
            Character span of each token in the attributed text, shape (tokens, 2).
        problem (`str`, *optional*):
            Why the sequence cannot be attributed.
        hidden_tokens (`int`, *optional*, defaults to `0`):
            Tokens that a neutral one stands in the place of, since they state the answer.
    """

    input_ids: np.ndarray
    target: Span
    segments: list[Span]
    spans: np.ndarray
    problem: str | None = None
    hidden_tokens: int = 0


@dataclass(frozen=True)
class GeneratedTokens:
    """
    Tokens that a model has read and written.

    Args:
        prompt_ids (`np.ndarray`):
            Token IDs of the prompt, without padding, shape (tokens,).
        completion_ids (`np.ndarray`):
            Token IDs of the completion, without padding and what ends it, shape (tokens,).
        spans (`np.ndarray`):
            Character span of each token of the completion in its text, shape (tokens, 2), see [`decode_with_spans`].
    """

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    spans: np.ndarray


def encode_with_spans(
    tokenizer: "PreTrainedTokenizerBase", text: str, add_special_tokens: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """
    Tokenize `text` and say which characters each token stands for.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer; only those know their offsets.
        text (`str`):
            Text to tokenize.
        add_special_tokens (`bool`, *optional*, defaults to `False`):
            Whether the tokenizer adds its own BOS and EOS.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Token IDs, shape (tokens,), and character spans, shape (tokens, 2). Added
        tokens have the empty span (0, 0). Tokens that share a character (byte fallback) share its span.

    Raises:
        `ValueError`: If the tokenizer has no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} ({tokenizer.name_or_path!r}) is a slow tokenizer without an offset mapping, "
            "so characters cannot be matched with tokens. Load a fast one: `AutoTokenizer.from_pretrained(..., "
            "use_fast=True)`, or convert it with `tokenizers`."
        )
    # Not a model input, so its length says nothing: silences the "longer than the maximum" warning
    encoding = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False)
    spans = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    if (spans[1:, 0] > spans[:-1, 1]).any():
        spans = _untrimmed(text, spans)
    return np.asarray(encoding["input_ids"], dtype=np.int64), spans


def decode_with_spans(tokenizer: "PreTrainedTokenizerBase", ids: np.ndarray) -> tuple[str, np.ndarray]:
    """
    Text of tokens that a model has written, and which characters each token stands for.

    A model may spell a text with other tokens than the tokenizer would: then the tokens are decoded one by one, each
    behind the few in front of it, since a tokenizer may read a token otherwise at the start of a text.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer.
        ids (`np.ndarray`):
            Token IDs, shape (tokens,).

    Returns:
        `tuple[str, np.ndarray]`: The text, special tokens included, and character spans, shape (tokens, 2). Tokens
        that share a character share its span.

    Raises:
        `UnplacedError`: If the texts of the tokens do not add up to the text of all.
        `ValueError`: If the tokenizer has no offsets.
    """
    text = _decode(tokenizer, ids)
    again, spans = encode_with_spans(tokenizer, text)
    if np.array_equal(again, ids):
        return text, spans
    spans = np.zeros((len(ids), 2), dtype=np.int64)
    context = first = position = 0
    for end in range(1, len(ids) + 1):
        known, longer = _decode(tokenizer, ids[context:first]), _decode(tokenizer, ids[context:end])
        # Half a character is shown as a replacement; more tokens than a character has bytes are none
        if longer.endswith("\ufffd") and end - first < _MOST_BYTES and end < len(ids):
            continue
        width = max(len(longer) - len(known), 0)
        spans[first:end] = position, position + width
        position += width
        context, first = first, end
    if position != len(text):
        raise UnplacedError(
            f"The {len(ids):,} tokens of a completion have {position:,} characters one by one and {len(text):,} "
            f"together with the tokenizer {tokenizer.name_or_path!r}, so its segments have no place among them.",
            "its tokens do not add up to its text",
        )
    return text, spans


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: np.ndarray) -> str:
    return cast(str, tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _untrimmed(text: str, spans: np.ndarray) -> np.ndarray:
    """Give tokens back the white space in front that some tokenizers (`trim_offsets`) leave out of their spans."""
    spans, covered = spans.copy(), 0
    for span in spans:
        if span[0] > covered and text[covered : span[0]].isspace():
            span[0] = covered
        covered = max(covered, span[1])
    return spans


def segment_of_tokens(spans: np.ndarray, segments: list[Span]) -> np.ndarray:
    """
    Index of the segment that holds each token's first character.

    Args:
        spans (`np.ndarray`):
            Character spans of the tokens, shape (tokens, 2).
        segments (`list[tuple[int, int]]`):
            Character spans of the segments in the same text, in order and without gaps.

    Returns:
        `np.ndarray`: Shape (tokens,), -1 for a token outside every segment and for tokens that stand for no text.
    """
    if len(segments) == 0:
        return np.full(len(spans), -1)
    starts = spans[:, 0]
    index = np.searchsorted([start for start, _ in segments], starts, side="right") - 1
    outside = (starts < segments[0][0]) | (starts >= segments[-1][1]) | (spans[:, 0] == spans[:, 1])
    return np.where(outside, -1, index)


def training_units(text: str, spans: np.ndarray, segments: list[Span]) -> np.ndarray:
    """
    The unit of each training token: the smallest thing that is kept or dropped as one.

    A segment has two units, because its opening word (`Wait`) can be trained without the rest (see
    [`~trl_segment.selection.unit_mask`]).

    Args:
        text (`str`):
            The training text.
        spans (`np.ndarray`):
            Character spans of its tokens, shape (tokens, 2).
        segments (`list[tuple[int, int]]`):
            Character spans of the segments in it.

    Returns:
        `np.ndarray`: Shape (tokens,), int32. 0 for a token outside the reasoning; for segment `i`, `2 * i + 1` on its
        opening word (with the white space in front of it) and `2 * i + 2` on the rest.
    """
    index = segment_of_tokens(spans, segments)
    if len(segments) == 0:
        return np.zeros(len(spans), dtype=np.int32)
    openings = [cast(re.Match, _OPENING.match(text, start, end)) for start, end in segments]  # it matches anything
    opening_ends = np.array([opening.end() for opening in openings])
    in_opening = spans[:, 0] < opening_ends[index]
    return np.where(index < 0, 0, 2 * index + 2 - in_opening).astype(np.int32)


def locate_segments(text: str, trace: Trace, template_name: str = "") -> list[Span]:
    """
    Character spans of a trace's segments in a rendered training text.

    Args:
        text (`str`):
            What the trainer tokenizes, for example a rendered chat template.
        trace ([`~trl_segment.traces.Trace`]):
            The trace that the text was made from.
        template_name (`str`, *optional*):
            Name of the tokenizer whose template rendered it, for the error.

    Returns:
        `list[tuple[int, int]]`: One span per segment. Where the template strips white space around the reasoning, the
        spans shrink with it.

    Raises:
        [`UnplacedError`]: If the reasoning is not in the text, as with templates that drop it from earlier turns.
    """
    start, end = trace.reasoning
    position = last_place(text, trace.completion)
    if position >= 0:
        return [(position + a, position + b) for a, b in trace.segments]

    # The template re-spaced the completion. Look between the prompt and the response, so that a short reasoning is
    # not found by chance in one of them.
    low, high = 0, len(text)
    if isinstance(trace.prompt, list) and trace.prompt:
        content = message_text(trace.prompt[-1])
        if content.strip() in text:
            # The first place: the completion may quote the question
            low = text.find(content.strip()) + len(content.strip())
    response = trace.completion[end:].replace(trace.closing, "", 1).strip()
    if response:
        place = last_place(text[low:], response)
        high = low + place if place >= 0 else high
    reasoning = trace.completion[start:end]
    place = last_place(text[low:high], reasoning)
    if place < 0:
        kept = reasoning.strip()
        start, end = start + reasoning.index(kept), start + reasoning.index(kept) + len(kept)
        place = last_place(text[low:high], kept)
    if place < 0:
        raise UnplacedError(
            f"The reasoning ({trace.reasoning[1] - trace.reasoning[0]:,} characters, starting "
            f"{reasoning.strip()[:40]!r}) is not in the text that the chat template of {template_name!r} renders: the "
            "template drops or rewrites the reasoning of assistant messages, so training would never see it. Set "
            "`completion_rendering='verbatim'` (the prompt is rendered with its generation prompt and the completion "
            "appended as it is), or pass a template that keeps the reasoning with `chat_template_path`.",
            "the chat template drops or rewrites its reasoning, which is not trained",
        )
    shift = low + place - start
    return [(min(max(a, start), end) + shift, min(max(b, start), end) + shift) for a, b in trace.segments]


def last_place(text: str, part: str) -> int:
    """
    `text.rfind(part)` in linear time, which Python has for `find` alone.

    Args:
        text (`str`):
            Text to look in.
        part (`str`):
            Text to look for.

    Returns:
        `int`: The last place, -1 if there is none.
    """
    place = text[::-1].find(part[::-1])
    return place if place < 0 else len(text) - place - len(part)


def render_prompt(trace: Trace, tokenizer: "PreTrainedTokenizerBase", whole: bool = True) -> str:
    """
    Text of the prompt, up to where the model starts to write.

    Args:
        trace ([`~trl_segment.traces.Trace`]):
            Its `prompt` is returned as it is if it is text, else rendered with the generation prompt.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its chat template is used.
        whole (`bool`, *optional*, defaults to `True`):
            Whether a template that loses the words of the prompt is an error.

    Returns:
        `str`: The text.

    Raises:
        `ValueError`: If there are messages to render but no chat template, or one that loses them.
    """
    if isinstance(trace.prompt, str):
        return trace.prompt
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template, so a prompt made of messages cannot be "
            "rendered. Set one (`tokenizer.chat_template = ...`, or `chat_template_path` on the command line), or "
            "pass rows whose 'prompt' and 'completion' are text."
        )
    from jinja2 import UndefinedError  # only where there is a template to render

    question = trace.prompt[-1].get("content") if trace.prompt and whole else None
    try:
        rendered = tokenizer.apply_chat_template(
            trace.prompt, tokenize=False, add_generation_prompt=True, **trace.template_kwargs
        )
        text = cast(str, rendered)
        # Not of other roles: templates may cut the reasoning out of an earlier turn, or write a tool's result as JSON
        lost = isinstance(question, str) and trace.prompt[-1].get("role") == "user" and question.strip() not in text
    except UndefinedError:
        if not isinstance(question, str):
            raise
        lost = True
    if lost:
        raise ValueError(
            f"The chat template of {tokenizer.name_or_path!r} does not render messages whose content is text: the "
            "words of the prompt are lost. It was made for images and wants a list of parts. Write the content as "
            "[{'type': 'text', 'text': ...}], or pass another template with `chat_template_path`."
        )
    if (opening_mark(trace.completion) or "").startswith("<think"):
        # Templates that think only on request close an empty reasoning here; the completion brings its own
        text = re.sub(r"<think>\s*</think>\s*$", "", text)
    return text


def join_completion(prompt: str, completion: str) -> tuple[str, int]:
    """
    Append a completion to a rendered prompt, without a second `<think>` (or another known opening mark) where the
    generation prompt ends in one.

    Args:
        prompt (`str`):
            Rendered prompt.
        completion (`str`):
            Completion as the dataset has it.

    Returns:
        `tuple[str, int]`: The text that follows the prompt, and how many characters of the completion it lacks.
    """
    opening = opening_mark(completion)
    if opening is not None and prompt.rstrip().endswith(opening):
        rest = completion.lstrip()[len(opening) :].lstrip()
        return rest, len(completion) - len(rest)
    return completion, 0


def attributed_sequence(
    trace: Trace,
    tokenizer: "PreTrainedTokenizerBase",
    answer_template: str = ANSWER_TEMPLATE,
    answer_statements: str = "visible",
    hidden_token: int | None = None,
) -> AttributedSequence:
    r"""
    Tokenize what the attribution model reads: prompt, reasoning, suffix, answer (arXiv 2602.00425).

    The text is tokenized as a whole. A token that holds any character of the answer counts as the answer's (in
    `\boxed{\frac...` the token `{\` does); what comes after it is left out, since it cannot influence the answer.

    Args:
        trace ([`~trl_segment.traces.Trace`]):
            A trace without `problem`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the attribution model.
        answer_template (`str`, *optional*):
            What follows the reasoning; `{answer}` stands for the answer. Its `</think>` becomes the closing mark of
            the trace's own form.
        answer_statements (`str`, *optional*, defaults to `"visible"`):
            What becomes of the places at which the reasoning states the answer, see [`find_statements`]: they stay
            `"visible"` (the paper), all tokens that hold a character of them are `"hidden"`, or `"only_first"` leaves
            those in the first segment that has any.
        hidden_token (`int`, *optional*):
            Token ID that stands in the place of each hidden one, so that all others keep their positions.

    Returns:
        [`AttributedSequence`]: With `problem` set if the vocabulary lacks the answer, or the answer is too long for
        one.

    Raises:
        `ValueError`: If the tokenizer is slow, or has no chat template where one is needed; if `answer_statements` is
            unknown, or hides something with no `hidden_token` at hand.
    """
    _check_statements(answer_statements, hidden_token)
    assert trace.answer is not None, "a trace without an answer has a problem"
    prompt = render_prompt(trace, tokenizer)
    completion, cut = join_completion(prompt, trace.completion[: trace.reasoning[1]])
    before, after = _around_answer(trace, answer_template)
    text = prompt + completion + before
    answer = len(text), len(text) + len(trace.answer)
    # A rendered template brings its own special tokens
    ids, spans = encode_with_spans(
        tokenizer, text + trace.answer + after, add_special_tokens=isinstance(trace.prompt, str)
    )
    # With `<think>` the white space behind it can be cut off, where the reasoning begins
    shift = len(prompt) - cut
    first = max(trace.reasoning[0], cut)
    segments = [(max(a, first) + shift, max(b, first) + shift) for a, b in trace.segments]
    hidden = None if answer_statements == "visible" else _hidden_characters(trace, answer_statements) + shift
    return _place(ids, spans, answer, segments, hidden, hidden_token, tokenizer.unk_token_id)


def generated_sequence(
    trace: Trace,
    tokenizer: "PreTrainedTokenizerBase",
    generated: GeneratedTokens,
    answer_template: str = ANSWER_TEMPLATE,
    answer_statements: str = "visible",
    hidden_token: int | None = None,
) -> AttributedSequence:
    """
    What the attribution model reads of a completion that it has generated: the very tokens of prompt and reasoning,
    which the tokenizer might have cut otherwise, then suffix and answer.

    Args:
        trace ([`~trl_segment.traces.Trace`]):
            The trace, without `problem`, of the text that [`decode_with_spans`] gives for the completion.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model.
        generated ([`GeneratedTokens`]):
            The tokens.
        answer_template (`str`, *optional*):
            See [`attributed_sequence`].
        answer_statements (`str`, *optional*, defaults to `"visible"`):
            See [`attributed_sequence`].
        hidden_token (`int`, *optional*):
            See [`attributed_sequence`].

    Returns:
        [`AttributedSequence`]: As of [`attributed_sequence`]; characters are counted from the start of the
        completion, and the tokens of the prompt have the empty span (0, 0).

    Raises:
        `ValueError`: See [`attributed_sequence`].
    """
    _check_statements(answer_statements, hidden_token)
    assert trace.answer is not None, "a trace without an answer has a problem"
    end = trace.reasoning[1]
    before, after = _around_answer(trace, answer_template)
    suffix_ids, suffix_spans = encode_with_spans(tokenizer, before + trace.answer + after)
    inside = generated.spans[:, 0] < end
    ids = np.concatenate([generated.prompt_ids, generated.completion_ids[inside], suffix_ids])
    of_prompt = np.zeros((len(generated.prompt_ids), 2), dtype=np.int64)
    spans = np.concatenate([of_prompt, generated.spans[inside], suffix_spans + end])
    answer = end + len(before), end + len(before) + len(trace.answer)
    hidden = None if answer_statements == "visible" else _hidden_characters(trace, answer_statements)
    return _place(ids, spans, answer, list(trace.segments), hidden, hidden_token, tokenizer.unk_token_id)


def _check_statements(answer_statements: str, hidden_token: int | None) -> None:
    if answer_statements not in STATEMENTS:
        raise ValueError(
            f"Unknown `answer_statements` {answer_statements!r}. Pass one of {', '.join(map(repr, STATEMENTS))}."
        )
    if answer_statements != "visible" and hidden_token is None:
        raise ValueError(
            "There is no token that could stand in the place of hidden statements of the answer: the model's config "
            "names neither a pad nor an eos token. Set `model.config.pad_token_id`, or leave `answer_statements` at "
            "'visible'."
        )


def _around_answer(trace: Trace, answer_template: str) -> tuple[str, str]:
    """What stands between reasoning and answer, and behind the answer."""
    before, after = answer_template.replace(DEFAULT_CLOSING, trace.closing).split("{answer}")
    return before, after


def _place(
    ids: np.ndarray,
    spans: np.ndarray,
    answer: Span,
    segments: list[Span],
    hidden: np.ndarray | None,
    hidden_token: int | None,
    unk_token_id: int | None,
) -> AttributedSequence:
    """The sequence up to the answer's last token, with the characters of answer, segments and what is hidden found."""
    holds_answer = np.flatnonzero((spans[:, 0] < answer[1]) & (spans[:, 1] > answer[0]))
    if len(holds_answer) == 0:
        missing = "the tokenizer makes no token of the answer"
        return AttributedSequence(ids, (len(ids), len(ids)), [(0, 0)] * len(segments), spans, missing)
    target = (int(holds_answer[0]), int(holds_answer[-1]) + 1)
    ids, spans = ids[: target[1]], spans[: target[1]]
    problem = None
    if unk_token_id is not None and unk_token_id in ids[target[0] :]:
        problem = "the answer has a token that is not in the vocabulary"
    elif target[1] - target[0] > MOST_ANSWER_TOKENS:
        problem = f"the answer has more than {MOST_ANSWER_TOKENS} tokens, as a solution has, not an answer"
    runs = _token_runs(segment_of_tokens(spans, segments), len(segments))
    if hidden is None:
        return AttributedSequence(ids, target, runs, spans, problem)
    inside = slice(runs[0][0], runs[-1][1])
    covered = _holds_any(spans[inside], hidden)
    ids[inside][covered] = hidden_token
    return AttributedSequence(ids, target, runs, spans, problem, int(covered.sum()))


def _token_runs(index: np.ndarray, num_segments: int) -> list[Span]:
    """Token span of each segment, from the segment of each token: tokens come in order, so each has one run."""
    inside = np.flatnonzero(index >= 0)
    if len(inside) == 0:
        return [(0, 0)] * num_segments
    first, last = inside[0], inside[-1] + 1
    # A token without text in the middle goes with the one before it
    ordered = np.maximum.accumulate(index[first:last])
    bounds = (first + np.searchsorted(ordered, np.arange(num_segments + 1))).tolist()
    return list(itertools.pairwise(bounds))


def _hidden_characters(trace: Trace, answer_statements: str) -> np.ndarray:
    """Spans of the completion that are hidden, shape (statements, 2)."""
    assert trace.answer is not None
    start, end = trace.reasoning
    found = np.array(find_statements(trace.completion[start:end], trace.answer), dtype=np.int64).reshape(-1, 2) + start
    if answer_statements == "only_first" and len(found):
        ends = np.array([end for _, end in trace.segments])
        segment = np.searchsorted(ends, found[:, 0], side="right")
        found = found[segment > segment[0]]
    return found


def _holds_any(spans: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which tokens hold a character of the wanted spans, which are in order and apart."""
    if len(wanted) == 0:
        return np.zeros(len(spans), dtype=bool)
    # The last wanted span that starts in front of the token's end
    last = np.searchsorted(wanted[:, 0], spans[:, 1], side="left") - 1
    return (last >= 0) & (wanted[last, 1] > spans[:, 0])
