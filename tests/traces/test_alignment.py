import functools
import itertools
import unicodedata

import numpy as np
import pytest
from helpers import CHATML_TEMPLATE, REAL_TOKENIZERS, make_rows, real_rows, real_tokenizer, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_segment.traces import (
    ANSWER_TEMPLATE,
    PAPER_KEYWORDS,
    GeneratedTokens,
    UnplacedError,
    attributed_sequence,
    build_trace,
    decode_with_spans,
    encode_with_spans,
    generated_sequence,
    join_completion,
    locate_segments,
    render_prompt,
    segment_of_tokens,
    segment_text,
    training_units,
)


REAL = [pytest.param(name, marks=pytest.mark.real_model) for name in REAL_TOKENIZERS]
TOKENIZERS = (*REAL, "tiny")


def get_tokenizer(name):
    return tiny_tokenizer() if name == "tiny" else real_tokenizer(name)


def _byte_alphabet():
    """GPT-2's table, written down anew: printable bytes stand for themselves, the others for 256, 257, ..."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


@functools.cache
def _bytes_of_ids(name, load):
    """The bytes that each token stands for, from its spelling in the vocabulary alone."""
    tokenizer = load(name)
    added = tokenizer.added_tokens_decoder
    table = {}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in added:
            table[token_id] = token.encode()
        elif name != "phi3":
            table[token_id] = bytes(_BYTE_OF[character] for character in token)
        elif token.startswith("<0x") and token.endswith(">"):
            table[token_id] = bytes([int(token[3:-1], 16)])
        else:
            table[token_id] = token.replace("▁", " ").encode()
    return table


def token_bytes(name, token_id):
    return _bytes_of_ids(name, get_tokenizer)[int(token_id)]


def first_characters(name, ids, text):
    """For each token the index of the character that its first byte belongs to, by adding up bytes."""
    owner = [i for i, character in enumerate(text) for _ in character.encode()]
    offset = 0
    if name == "phi3":
        # SentencePiece puts a space in front
        assert token_bytes(name, ids[0]).startswith(b" ")
        offset = -1
    firsts = []
    for token_id in ids:
        firsts.append(owner[max(offset, 0)])
        offset += len(token_bytes(name, token_id))
    assert offset == len(owner), "the tokens' bytes are not the text's"
    return np.array(firsts)


def segment_of_characters(text, segments):
    """Segment of each character, by counting them out."""
    owners = [-1] * len(text)
    for index, (start, end) in enumerate(segments):
        for position in range(start, end):
            owners[position] = index
    return np.array(owners)


def check_alignment(name, text, segments):
    """Every token is in the segment of its first character, and in exactly one; the reasoning is all of `text`."""
    ids, spans = encode_with_spans(get_tokenizer(name), text)
    firsts = first_characters(name, ids, text)
    index = segment_of_tokens(spans, segments)
    owners = segment_of_characters(text, segments)
    assert (owners >= 0).all()
    np.testing.assert_array_equal(index, owners[firsts])
    assert (np.diff(index) >= 0).all()
    return ids, index


@pytest.mark.real_model
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_of_real_traces_belong_to_the_segment_of_their_first_byte(name):
    mid_token = 0
    for row in real_rows():
        trace = build_trace(row)
        text = trace.completion[slice(*trace.reasoning)]
        start = trace.reasoning[0]
        segments = [(a - start, b - start) for a, b in trace.segments]
        assert len(segments) >= 2
        text = unicodedata.normalize("NFC", text) if len(unicodedata.normalize("NFC", text)) == len(text) else text
        ids, index = check_alignment(name, text, segments)
        assert set(index) == set(range(len(segments)))
        for i in range(1, len(segments) if name in REAL_TOKENIZERS else 0):
            first = np.flatnonzero(index == i)[0]
            spelled = token_bytes(name, ids[first]).decode(errors="replace")
            if name == "phi3":
                assert spelled == "\n"
            elif spelled.startswith("\n"):
                # The blank line is a token of its own: the text before it ends without punctuation
                assert text[segments[i][0] - 1] not in ".:"
            else:
                mid_token += 1
                assert any(keyword.startswith(spelled.strip()) for keyword in PAPER_KEYWORDS), spelled
    if name in ("qwen2", "llama3"):
        # Nearly all segments start inside a token: what makes the whole matter necessary
        assert mid_token > 1000


_WORDS = st.sampled_from(
    [
        *PAPER_KEYWORDS,
        *" \n.,:;)}$\\",
        "\n\n",
        "\n\n",
        ".\n\n",
        "\r\n\r\n",
        "  ",
        "\t",
        "x=1",
        "é",
        "的",
        "😀",
        "👩‍🚀",
        "Ω",
    ]
)
_GENERATED = st.lists(_WORDS, min_size=1, max_size=30).map("".join) | st.text(min_size=1, max_size=40)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=_GENERATED)
def test_tokens_of_generated_texts_belong_to_the_segment_of_their_first_byte(name, text):
    # Where the tokenizer composes characters (Qwen2), bytes cannot be counted back
    text = unicodedata.normalize("NFC", text)
    check_alignment(name, text, segment_text(text))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=_GENERATED, cuts=st.sets(st.integers(1, 80), max_size=12))
@settings(max_examples=40)
def test_cuts_anywhere_even_inside_tokens(name, text, cuts):
    text = unicodedata.normalize("NFC", text)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    check_alignment(name, text, list(itertools.pairwise(bounds)))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    text=st.lists(st.sampled_from(["e\u0301", "o\u0308", "\n\n", "Wait", ".", "a", "\u1112\u1161\u11ab"])).map("".join)
)
@settings(max_examples=40)
def test_decomposed_characters_keep_every_token_in_one_segment(name, text):
    """Qwen2 composes them before it tokenizes, so offsets are those of another text that must be mapped back."""
    ids, spans = encode_with_spans(get_tokenizer(name), text)
    segments = segment_text(text)
    index = segment_of_tokens(spans, segments)
    assert (np.diff(index) >= 0).all() and (len(text) == 0 or index[0] == 0)
    assert len(ids) == 0 or (spans[:, 1] <= len(text)).all()
    assert (index >= 0).all()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_outside_the_reasoning_have_no_segment(name):
    tokenizer = get_tokenizer(name)
    text = "Question?\n\nWait a bit.</think>\n\nHowever, 4."
    start, end = text.index("\n\nWait"), text.index("</think>")
    ids, spans = encode_with_spans(tokenizer, text)
    index = segment_of_tokens(spans, [(start, start + 6), (start + 6, end)])
    owners = segment_of_characters(text, [(start, start + 6), (start + 6, end)])
    assert index.tolist() == owners[first_characters(name, ids, text)].tolist()
    assert -1 in index and 0 in index and 1 in index


def test_no_segments_and_added_tokens():
    assert segment_of_tokens(np.array([[0, 2], [2, 4]]), []).tolist() == [-1, -1]
    # (0, 0) is how an added BOS looks; segment 0 starts at 0
    spans = np.array([[0, 0], [0, 2], [2, 4], [4, 4], [4, 6]])
    assert segment_of_tokens(spans, [(0, 3), (3, 6)]).tolist() == [-1, 0, 0, -1, 1]
    assert segment_of_tokens(spans, [(3, 5), (5, 6)]).tolist() == [-1, -1, -1, -1, 0]


def test_empty_segments_hold_no_token():
    spans = np.array([[0, 2], [2, 4], [4, 6]])
    assert segment_of_tokens(spans, [(2, 2), (2, 2), (2, 4), (4, 4), (4, 6)]).tolist() == [-1, 2, 4]


def units_of(tokenizer, text, segments):
    ids, spans = encode_with_spans(tokenizer, text)
    units = training_units(text, spans, segments)
    assert units.dtype == np.int32
    return [(tokenizer.convert_ids_to_tokens(int(i)), int(u)) for i, u in zip(ids, units, strict=True)]


# "Q\n4 is it.\n\nWait, 5.\n\nBut wait, 6</think> 7" with the reasoning from "4" to "6"
TEXT = "Q\n4 is it.\n\nWait, 5.\n\nBut wait, 6</think> 7"
SPANS = [(2, 10), (10, 20), (20, 33)]


@pytest.mark.real_model
def test_units_by_hand_qwen2():
    assert TEXT[slice(*SPANS[0])] == "4 is it." and TEXT[slice(*SPANS[2])] == "\n\nBut wait, 6"
    units = units_of(real_tokenizer("qwen2"), TEXT, SPANS)
    assert units == [
        *[("Q", 0), ("Ċ", 0)],
        *[("4", 1), ("Ġis", 2), ("Ġit", 2), (".ĊĊ", 2)],
        *[("Wait", 3), (",", 4), ("Ġ", 4), ("5", 4), (".ĊĊ", 4)],
        *[("But", 5), ("Ġwait", 6), (",", 6), ("Ġ", 6), ("6", 6)],
        *[("</", 0), ("think", 0), (">", 0), ("Ġ", 0), ("7", 0)],
    ]


@pytest.mark.real_model
def test_units_by_hand_phi3():
    """The newlines are byte tokens of their own, so they belong to the opening."""
    units = units_of(real_tokenizer("phi3"), TEXT, SPANS)
    assert units == [
        *[("▁Q", 0), ("<0x0A>", 0)],
        *[("4", 1), ("▁is", 2), ("▁it", 2), (".", 2)],
        *[("<0x0A>", 3), ("<0x0A>", 3), ("Wait", 3), (",", 4), ("▁", 4), ("5", 4), (".", 4)],
        *[("<0x0A>", 5), ("<0x0A>", 5), ("But", 5), ("▁wait", 6), (",", 6), ("▁", 6), ("6", 6)],
        *[("</", 0), ("th", 0), ("ink", 0), (">", 0), ("▁", 0), ("7", 0)],
    ]


@pytest.mark.real_model
def test_units_where_the_blank_line_is_its_own_token():
    text = "ab\n\nWait x"
    units = units_of(real_tokenizer("qwen2"), text, [(0, 2), (2, 10)])
    assert units == [("ab", 1), ("ĊĊ", 3), ("Wait", 3), ("Ġx", 4)]


def test_opening_is_one_symbol_where_no_word_stands():
    spans = np.array([[i, i + 1] for i in range(9)])
    assert training_units("**a* \n$$b", spans, [(0, 4), (4, 9)]).tolist() == [1, 2, 2, 2, 3, 3, 3, 4, 4]
    # White space alone is all opening; a word that ends the segment too
    assert training_units("a \n bc  d", spans, [(0, 1), (1, 4), (4, 9)]).tolist() == [1, 3, 3, 3, 5, 5, 6, 6, 6]


def test_opening_does_not_run_into_the_next_segment():
    spans = np.array([[i, i + 1] for i in range(6)])
    assert training_units("ab cde", spans, [(0, 1), (1, 4), (4, 6)]).tolist() == [1, 3, 4, 4, 5, 5]


def test_no_segments_no_units():
    assert training_units("ab", np.array([[0, 1], [1, 2]]), []).tolist() == [0, 0]


# ---- locate_segments


def messages_trace(
    reasoning="One.\n\nWait, two.\n\nHowever, no.", question="1 + 1?", response="It is \\boxed{2}.", **row
):
    completion = f"<think>\n{reasoning}\n</think>\n\n{response}"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": completion}]
    trace = build_trace({"messages": messages, "answer": "2", **row})
    assert trace.problem is None
    return trace


def render(trace, spell):
    """A chat template by hand: `spell(reasoning, response)` is the assistant's turn."""
    start, end = trace.reasoning
    response = trace.completion[end:].replace("</think>", "").strip()
    return (
        f"<|im_start|>user\n{trace.prompt[-1]['content']}<|im_end|>\n<|im_start|>assistant\n"
        + spell(trace.completion[start:end], response)
        + "<|im_end|>\n"
    )


def test_verbatim_completion_is_located():
    trace = messages_trace()
    text = "user: 1 + 1?\n" + trace.completion + "<|im_end|>\n"
    assert [text[a:b] for a, b in locate_segments(text, trace)] == trace.segment_texts


def test_last_of_equal_completions_is_located():
    """An earlier turn that says the same is context."""
    trace = messages_trace()
    text = trace.completion + "<|im_end|>\n" + trace.completion
    assert locate_segments(text, trace)[0][0] == len(trace.completion) + len("<|im_end|>\n") + trace.reasoning[0]


def test_respaced_reasoning_is_located():
    trace = messages_trace()
    text = render(trace, lambda reasoning, response: f"<think>{reasoning}</think>\n{response}")
    assert [text[a:b] for a, b in locate_segments(text, trace)] == trace.segment_texts


def test_stripped_reasoning_shrinks_the_outer_segments():
    trace = messages_trace()
    text = render(trace, lambda reasoning, response: f"<think>{reasoning.strip()}</think>\n{response}")
    spans = locate_segments(text, trace)
    assert [text[a:b] for a, b in spans] == ["One.", "\n\nWait, two.", "\n\nHowever, no."]
    assert spans[0][0] == text.index("One.")


def test_stripping_can_empty_a_segment():
    trace = messages_trace("\n\nWait, two.\n\nHowever, no.")  # the tag's newline is a segment of its own
    assert trace.segment_texts[0] == "\n"
    text = render(trace, lambda reasoning, response: f"<think>{reasoning.strip()}</think>{response}")
    spans = locate_segments(text, trace)
    assert len(spans) == 3
    assert [text[a:b] for a, b in spans] == ["", "Wait, two.", "\n\nHowever, no."]


@pytest.mark.parametrize(
    "trace",
    [
        messages_trace(),
        messages_trace(reasoning="5 + 3"),
        messages_trace(reasoning="It", response="It is \\boxed{2}."),
        messages_trace(reasoning="1 + 1", question="What is 1 + 1? Think of 1 + 1."),
    ],
    ids=["long", "short", "in-response", "in-question"],
)
def test_dropped_reasoning_is_an_error_that_names_the_cure(trace):
    text = render(trace, lambda reasoning, response: response)
    with pytest.raises(ValueError, match=r"'some/model' .*completion_rendering='verbatim'") as error:
        locate_segments(text, trace, "some/model")
    start, end = trace.reasoning
    assert f"{end - start:,} characters" in str(error.value)
    assert "drops or rewrites the reasoning" in str(error.value)


def test_rewritten_reasoning_is_an_error():
    trace = messages_trace()
    text = render(trace, lambda reasoning, response: f"<think>{reasoning.replace('two', '2')}</think>{response}")
    with pytest.raises(ValueError, match="drops or rewrites"):
        locate_segments(text, trace)


def test_reasoning_that_quotes_the_question_is_located():
    """R1's traces begin with the question, word for word."""
    trace = messages_trace("The question is: 1 + 1?\n\nWait, two.")
    text = render(trace, lambda reasoning, response: f"<think>{reasoning.strip()}</think>\n{response}")
    spans = locate_segments(text, trace)
    assert [text[a:b] for a, b in spans] == ["The question is: 1 + 1?", "\n\nWait, two."]


def test_response_that_quotes_the_question_does_not_hide_the_reasoning():
    trace = messages_trace(response="You asked 1 + 1? It is \\boxed{2}.")
    text = render(trace, lambda reasoning, response: f"<think>{reasoning.strip()}</think>\n{response}")
    assert [text[a:b] for a, b in locate_segments(text, trace)][1] == "\n\nWait, two."


def test_short_reasoning_is_located_in_its_own_place():
    trace = messages_trace(reasoning="1 + 1", question="What is 1 + 1?", response="1 + 1 is \\boxed{2}.")
    text = render(trace, lambda reasoning, response: f"<think>{reasoning.strip()}</think>\n{response}")
    ((start, end),) = locate_segments(text, trace)
    assert (start, end) == (text.index("<think>") + 7, text.index("</think>"))


def test_reasoning_field_rendered_by_a_template_is_located():
    message = {"role": "assistant", "content": "\\boxed{2}", "reasoning_content": "One.\n\nWait, two."}
    trace = build_trace({"messages": [{"role": "user", "content": "1 + 1?"}, message]})
    text = "<|user|>1 + 1?<|assistant|><think>One.\n\nWait, two.</think>\\boxed{2}<|end|>"
    assert [text[a:b] for a, b in locate_segments(text, trace)] == ["One.", "\n\nWait, two."]


# ---- prompts and what follows them


@pytest.mark.parametrize(
    ("prompt", "completion", "joined", "missing"),
    [
        ("p", "<think>\na", "<think>\na", 0),
        ("p<think>", "<think>\na", "a", 8),
        ("p<think>\n", "<think>\na", "a", 8),
        ("p<think>\n", "\n<think>a", "a", 8),
        ("p<think>\n", "a</think>b", "a</think>b", 0),
        ("p<think>\n", "a<think>", "a<think>", 0),
        ("p[THINK]", "[THINK]a[/THINK]b", "a[/THINK]b", 7),
        ("p<think>", "[THINK]a", "[THINK]a", 0),
        ("p", "a", "a", 0),
    ],
)
def test_think_tag_is_not_doubled(prompt, completion, joined, missing):
    assert join_completion(prompt, completion) == (joined, missing)


def test_prompt_without_template_is_a_clear_error():
    trace = messages_trace()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template, so a prompt made of messages cannot be rendered"):
        render_prompt(trace, tokenizer)


def test_prompt_is_rendered_with_its_generation_prompt_and_arguments():
    tokenizer = tiny_tokenizer()
    assert render_prompt(messages_trace(), tokenizer) == (
        "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ style }}{{ tools | length }}"
    trace = messages_trace(chat_template_kwargs={"style": "S"}, tools=[{"name": "f"}, {"name": "g"}])
    assert render_prompt(trace, tokenizer) == "1 + 1?S2"


def test_slow_tokenizer_is_a_clear_error():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    with pytest.raises(ValueError, match=r"ByT5Tokenizer .*slow tokenizer without an offset mapping.*use_fast=True"):
        encode_with_spans(tokenizer, "text")


def test_encoding_warns_of_no_length(caplog):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 4
    ids, spans = encode_with_spans(tokenizer, "one two three four five six")
    assert len(ids) > 4 and spans[-1][1] == len("one two three four five six")
    assert not caplog.records


def test_trimmed_offsets_still_put_every_token_in_a_segment():
    """Some byte-level tokenizers (RoBERTa's) leave spaces out of a token's span, all of it for a token of spaces."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    text = "One.  \n\nWait,   two."
    _, spans = encode_with_spans(tokenizer, text)
    assert (segment_of_tokens(spans, segment_text(text)) >= 0).all()


# ---- attributed_sequence

RENDERED = "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"


def text_trace(answer="27", prompt="Question: 3 ^ 3?\n", reasoning="It is 9.\n\nWait, 27.\n\nHowever, fine.\n"):
    return build_trace({"prompt": prompt, "completion": f"<think>\n{reasoning}</think>\n\nDone.", "answer": answer})


def check_sequence(trace, name, prefix, cut=0, tokenizer=None):
    """Against the text put together here: `prefix` is all in front of the reasoning (less `cut` characters of it)."""
    tokenizer = tokenizer or get_tokenizer(name)
    sequence = attributed_sequence(trace, tokenizer)
    assert sequence.problem is None
    start, end = trace.reasoning
    reasoning = trace.completion[start + cut : end]
    before = f"{prefix}{reasoning}</think> So, the final answer is \\boxed{{"
    text = before + trace.answer + "}"
    string_prompt = isinstance(trace.prompt, str)
    whole = tokenizer(text, add_special_tokens=string_prompt)["input_ids"]
    ids = sequence.input_ids.tolist()

    # A beginning of the whole text's tokens that ends with the answer's last
    assert ids == whole[: len(ids)]
    first, last = sequence.target
    assert last == len(ids) == len(sequence.spans)
    assert trace.answer in tokenizer.decode(ids[first:])
    assert trace.answer not in tokenizer.decode(ids[first + 1 :])
    assert trace.answer not in tokenizer.decode(ids[first:-1])

    added = int(string_prompt and bool(tokenizer("", add_special_tokens=True)["input_ids"]))
    firsts = first_characters(name, whole[added:], text)
    position, segments = len(prefix), []
    for piece_start, piece_end in trace.segments:
        length = piece_end - max(piece_start, start + cut)
        segments.append((position, position + max(length, 0)))
        position = segments[-1][1]
    owners = np.array([-1] * added + segment_of_characters(text, segments)[firsts].tolist())
    for index, (a, b) in enumerate(sequence.segments):
        assert np.flatnonzero(owners == index).tolist() == list(range(a, b))
    assert sequence.segments[0][0] >= 1 and sequence.segments[-1][1] <= first
    return sequence


@pytest.mark.parametrize(
    "answer",
    [
        "27",
        "-1",
        r"\frac{1}{2}",
        "x=3",
        "(3, 4)",
        "\\text{A, B}",
        "1,000",
        "$5",
        "π",
        "的",
        "😀",
        "{a}",
        "A\\",
        "\\%",
        "0.5",
    ],
)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_sequence_is_prompt_reasoning_suffix_and_answer(name, answer):
    trace = text_trace(answer)
    check_sequence(trace, name, trace.prompt + "<think>")


@pytest.mark.parametrize("name", REAL)
def test_sequences_of_real_traces(name):
    for row in real_rows():
        trace = build_trace({**row, "prompt": f"{row['question']}\n", "completion": row["solution"]})
        text = trace.completion[: trace.reasoning[1]]
        if unicodedata.normalize("NFC", trace.prompt + text) == trace.prompt + text:
            check_sequence(trace, name, trace.prompt)


@pytest.mark.parametrize("name", [REAL[0], "tiny"])
def test_conversational_prompt_is_rendered(name):
    trace = messages_trace()
    prefix = RENDERED
    if name == "qwen2":
        prefix = "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n" + RENDERED
    check_sequence(trace, name, prefix + "<think>")


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["phi3", "llama3"])
def test_bos_stands_once(name):
    import copy

    tokenizer = copy.deepcopy(real_tokenizer(name))
    if name == "llama3":
        tokenizer.chat_template = "{{ bos_token }}" + CHATML_TEMPLATE
    sequence = attributed_sequence(messages_trace(), tokenizer)
    assert sequence.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert sequence.input_ids[0] == tokenizer.bos_token_id
    sequence = attributed_sequence(text_trace(), tokenizer)
    added = tokenizer("")["input_ids"]
    assert sequence.input_ids.tolist().count(tokenizer.bos_token_id) == len(added)
    assert sequence.segments[0][0] >= len(added)


@pytest.mark.parametrize("space", ["", "\n"])
def test_think_tag_of_the_generation_prompt_is_not_doubled(space):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML_TEMPLATE.replace(
        "assistant\n' }}{% endif", f"assistant\n<think>{space}' }}}}{{% endif"
    )
    trace = messages_trace()
    sequence = check_sequence(trace, "tiny", RENDERED + "<think>" + space, cut=1, tokenizer=tokenizer)
    assert tokenizer.decode(sequence.input_ids).count("<think>") == 1
    # Without its own tag (R1's form) the reasoning follows as it is
    row = {
        "prompt": trace.prompt,
        "completion": [{"role": "assistant", "content": trace.completion[8:]}],
        "answer": "2",
    }
    other = attributed_sequence(build_trace(row), tokenizer)
    assert other.input_ids.tolist() == sequence.input_ids.tolist()
    assert other.segments == sequence.segments


def test_whitespace_segment_cut_with_the_tag_is_empty():
    tokenizer = tiny_tokenizer()
    trace = messages_trace("\n\nWait, two.\n\nHowever, no.")
    tokenizer.chat_template = CHATML_TEMPLATE.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    sequence = attributed_sequence(trace, tokenizer)
    lengths = [b - a for a, b in sequence.segments]
    assert lengths[0] == 0 and lengths[1] > 0 and lengths[2] > 0
    a, b = sequence.segments[1]
    assert tokenizer.decode(sequence.input_ids[a:b]).startswith("Wait, two.")


def test_nothing_after_the_reasoning_matters():
    tokenizer = tiny_tokenizer()
    sequences = [
        attributed_sequence(
            build_trace({"prompt": "p", "completion": f"<think>One.\n\nWait, two.</think>{tail}", "answer": "2"}),
            tokenizer,
        )
        for tail in ("", "\n\nThe answer is 2.", "\\boxed{3} </think>")
    ]
    assert all(s.input_ids.tolist() == sequences[0].input_ids.tolist() for s in sequences)


def test_other_answer_template():
    tokenizer = tiny_tokenizer()
    sequence = attributed_sequence(text_trace("8"), tokenizer, "\nAnswer: {answer} (sure)")
    text = tokenizer.decode(sequence.input_ids)
    assert text.endswith("However, fine.\n\nAnswer: 8")
    assert "</think>" not in text
    assert ANSWER_TEMPLATE.replace("{answer}", "8") == "</think> So, the final answer is \\boxed{8}"


def word_tokenizer(normalizer=None):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "p",
        "One",
        ".",
        "Wait",
        ",",
        "two",
        "</",
        "think",
        ">",
        "<",
        "So",
        "the",
        "final",
        "answer",
        "is",
    ]
    words += ["\\", "boxed", "{", "}", "2", "\\boxed", "</think>", "\\boxed{"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_answer_outside_the_vocabulary_is_a_problem():
    trace = build_trace({"prompt": "p ", "completion": "One.\n\nWait, two.", "answer": "π"})
    sequence = attributed_sequence(trace, word_tokenizer(), "</think> \\boxed {{answer} }")
    assert sequence.problem == "the answer has a token that is not in the vocabulary"
    # Unknown words elsewhere are no problem
    trace = build_trace({"prompt": "p π ", "completion": "One π.\n\nWait, two.", "answer": "2"})
    sequence = attributed_sequence(trace, word_tokenizer(), "</think> \\boxed {{answer} }")
    assert sequence.problem is None and sequence.input_ids.tolist().count(0) >= 2


def test_answer_without_any_token_is_a_problem():
    from tokenizers import normalizers

    trace = build_trace({"prompt": "p ", "completion": "One.\n\nWait, two.", "answer": "%"})
    sequence = attributed_sequence(trace, word_tokenizer(normalizers.Replace("%", "")), "</think> is {answer} .")
    assert sequence.problem == "the tokenizer makes no token of the answer"
    assert len(sequence.segments) == 2


def test_long_traces_need_no_retokenizing():
    """Tokenizer calls do not grow with segments: one to encode the text, none per segment or prefix."""
    tokenizer = tiny_tokenizer()
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, *args, **kwargs):
            calls.append(args)
            return tokenizer(*args, **kwargs)

    trace = text_trace(reasoning="Start." + "\n\nWait, more." * 200)
    attributed_sequence(trace, Counting())
    assert len(trace.segments) > 200 and len(calls) == 1


@pytest.mark.parametrize("row", make_rows(8))
def test_made_rows_have_segments_and_an_answer(row):
    trace = build_trace(row)
    assert trace.problem is None and len(trace.segments) >= 3
    check_sequence(
        trace, "tiny", f"<|im_start|>user\n{trace.prompt[0]['content']}<|im_end|>\n<|im_start|>assistant\n<think>"
    )


def test_an_answer_as_long_as_a_solution_is_a_problem():
    tokenizer = tiny_tokenizer()
    trace = build_trace({"prompt": "p", "completion": "<think>a\n\nWait, b</think>c", "answer": "1 + " * 40 + "1"})
    assert trace.problem is None
    problem = attributed_sequence(trace, tokenizer).problem
    assert problem == "the answer has more than 64 tokens, as a solution has, not an answer"


def spelled_out(name, text):
    """A text in as many tokens as it can be written with: one for each character, or byte."""
    tokenizer = get_tokenizer(name)
    if name == "phi3":
        pieces = ["▁", *("▁" if character == " " else character for character in text)]
        newline = tokenizer.convert_tokens_to_ids("<0x0A>")
        return np.array([newline if piece == "\n" else tokenizer.convert_tokens_to_ids(piece) for piece in pieces])
    ids = [tokenizer(character, add_special_tokens=False)["input_ids"] for character in text]
    return np.array([token for one in ids for token in one])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["I add 5 and 6.\n\nWait, is it 11?\n\nHowever, no.", "né à 你好.\n\nWait, 𝔸 = 🙂!"])
def test_tokens_that_a_model_has_written_have_their_characters(name, text):
    """As the tokenizer cuts the text, and cut smaller, which it would never do."""
    tokenizer = get_tokenizer(name)
    expected, spans = encode_with_spans(tokenizer, text)
    decoded, found = decode_with_spans(tokenizer, expected)
    assert decoded == text
    assert np.array_equal(found, spans)
    if name == "phi3" and not text.isascii():
        return
    ids = spelled_out(name, text)
    assert len(ids) > len(expected)
    decoded, found = decode_with_spans(tokenizer, ids)
    assert decoded == text
    assert np.maximum(found[:, 0], 0).tolist() == [max(place, 0) for place in first_characters(name, ids, text)]
    assert found[-1, 1] == len(text) and (found[1:, 0] >= found[:-1, 0]).all()


def test_what_is_no_text_is_placed_all_the_same():
    tokenizer = tiny_tokenizer()
    half = tokenizer("é", add_special_tokens=False)["input_ids"][:1]
    ids = np.array([*tokenizer("a")["input_ids"], *half * 30, *tokenizer("b")["input_ids"], *half])
    try:
        text, spans = decode_with_spans(tokenizer, ids)
    except UnplacedError as error:
        assert "do not add up" in error.reason
    else:
        assert text[spans[0, 0] : spans[0, 1]] == "a" and spans[-1, 1] == len(text)
    assert decode_with_spans(tokenizer, np.array([], dtype=np.int64))[0] == ""


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("statements", ["visible", "hidden", "only_first"])
def test_the_sequence_of_generated_tokens_is_that_of_the_text(name, statements):
    """Where a mark of its own stands between reasoning and suffix, the two ways to tokenize agree."""
    tokenizer = get_tokenizer(name)
    row = make_rows(5)[4]
    text = row["solution"].replace("</think>", f"So it is {row['answer']}.\n</think>")
    prompt = f"Q: {row['question']}\nA:\n"
    trace = build_trace({"prompt": prompt, "completion": text})
    expected = attributed_sequence(trace, tokenizer, answer_statements=statements, hidden_token=3)
    prompt_ids = np.array(tokenizer(prompt)["input_ids"])
    ids = expected.input_ids
    # Cut where the text is cut
    assert np.array_equal(ids[: len(prompt_ids)], prompt_ids)
    completion_ids, spans = encode_with_spans(tokenizer, text)
    generated = GeneratedTokens(prompt_ids, completion_ids, spans)
    found = generated_sequence(trace, tokenizer, generated, answer_statements=statements, hidden_token=3)
    assert found.problem is None and len(found.segments) == len(trace.segments) > 2
    assert found.hidden_tokens == expected.hidden_tokens and (found.hidden_tokens > 0) == (statements != "visible")
    for (a, b), (c, d) in zip(found.segments, expected.segments, strict=True):
        assert found.input_ids[a:b].tolist() == ids[c:d].tolist()
    a, b = found.target
    assert tokenizer.decode(found.input_ids[a:b]).strip("{} ") == row["answer"]
    assert b == len(found.input_ids)
