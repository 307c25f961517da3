r"""
One reader of answers: of what a model wrote, and of a dataset's answer column.

Attribution, training and grading all ask here. Every scanner is linear in the text, which may be hostile.
"""

import ast
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np


# One or two backslashes: JSON that was escaped twice has two
_BOX_TOKENS = re.compile(r"\\\\?(?:boxed|fbox)(?![A-Za-z])|\\.|[{}]", re.DOTALL)
# What `\boxed 5` puts into the box: a number, a command with its arguments, or one letter or digit
_BARE_CONTENT = re.compile(
    r"\s{0,8}([+-]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?|\\(?!\\?(?:boxed|fbox))[A-Za-z]{1,20}|[A-Za-z](?![A-Za-z]))"
)
_OPTION = re.compile(r"\[[^\[\]\n]{0,50}\]")
_OPENING_BRACE = re.compile(r"\s*\{")
# What a box holds where somebody only speaks of boxes
_PLACEHOLDER = re.compile(
    r"(?:[.…?_~\s]|\\[lcd]?dots|\\_|\\(?: |$)|\\q?quad)*"
    r"|(?:\\text\s?\{)?\s*(?:your |the )?(?:final )?(?:answer|result|solution|value)(?: here)?\s*\}?",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d{1,2}")
_GROUP = re.compile(r"\{(?:[^{}\\]|\\.|\{[^{}]{0,200}\}){0,200}\}", re.DOTALL)
# What may stand between two boxes that are one answer: `$x=\boxed{1}$ or $y=\boxed{2}$`
_SPACE = r"(?:[\s$&]|\\\\|\\q?quad|\\[,;: ])*"
_BETWEEN_BOXES = re.compile(
    rf"{_SPACE}(?:\\text(?:rm)?\{{\s*)?(?:[,;]\s*(?:\\text\{{\s*)?(?:and|or)?|and|or)(?:\s*\}})?{_SPACE}"
    rf"(?:\\?[A-Za-z]\w{{0,9}}\s*=\s*)?{_SPACE}"
)
_LONGEST_BETWEEN = 60
# What belongs to a box outside of it: a sign and a factor in front, a power or a base behind
_IN_FRONT = re.compile(r"(?:([-−]|\\[pm][mp])(\s?))?(\d{1,20}(?:\.\d{1,20})?|\\[dt]?frac\{\d{1,9}\}\{\d{1,9}\})?$")
_FORMULA_BEGINS = re.compile(r"(?:^|[$=(\[&,:]|\\(?:approx|[lg]eq?|[;,]))\s*$")
_WORD_BEFORE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}\s$")
_POWER_BEHIND = re.compile(r"\s?\^\s?(?!\{?\s?\\circ)(\{[^{}]{1,30}\}|[\dA-Za-z]|\\[A-Za-z]{1,10})")
_BASE_BEHIND = re.compile(r"\s?_\s?(\{[^{}]{1,20}\}|\d{1,2}(?!\d))")
_ONE_SYMBOL = re.compile(r"[\w.,]+|\\[A-Za-z]+")
_MOST_AROUND = 60

# Words tell a heading or a sentence from a value; names of LaTeX are none
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
# Reasoning in front of an answer, in a column
_CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|end_of_thought\|>", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s?\{[a-z]{1,20}\*?\}")
_TAGGED = re.compile(r"<answer>([^<]{0,400})</answer>", re.IGNORECASE)
# "The answer is 5", and "Answer: 5" at the start of a sentence; in "we check our answer: 5 + 2" it announces nothing
_ANNOUNCED = re.compile(
    r"\b(?:answers?|ans)\b[^.!?:\n]{0,60}?\s(?:is|are|equals|(?:must|would|should|will) be|comes (?:out )?to)\b"
    r"|\b(?:correct|right|final|best)\s(?:option|choice)\b[^.!?:\n]{0,20}?\s(?:is|are)\b"
    r"|(?:^|[.!?>*#]\s{0,3}|\b(?:final|the|correct)\s)(?:answers?|ans)\b[*_]{0,3}\s?[:=：]"
    r"|答案(?:是|为|[:：])",
    re.IGNORECASE | re.MULTILINE,
)
_OPTION_IS_RIGHT = re.compile(r"\b(?:option|choice)\s(\(?[A-J]\)?)\sis\s(?:the\s)?(?:correct|right)\b", re.IGNORECASE)
_ANSWER_HEADING = re.compile(r"[#*_\s]*(?:final |the )?answer[*_:：\s]*", re.IGNORECASE)
_FILLERS = re.compile(
    r"(?:[\s*_:：`}]|(?:simply|just|therefore|thus|then|indeed|equal to|about|approximately|roughly|exactly|precisely"
    r"|(?:found|determined|calculated) to be|given by|the (?:number|value|integer))\b)*",
    re.IGNORECASE,
)
_STATED_END = re.compile(
    r"[.!](?=[\s*_$<]|$)|[;。\n]|\*\*|</|<\||,?\s(?:because|since|which|where|so|but|(?:and )?not|as|respectively)\b",
    re.IGNORECASE,
)
# The last side of `20 - 5 = 15` is the value
_SUM = re.compile(r"(?:[\d\s$+\-−*/×÷·().,%]|\\(?:times|cdot|div|[$%]))+")
_MORE_BEHIND = re.compile(r"[^.\n]{0,60}?\b(?:and|or)\s+(?:\$|\\\(|\d)")
_NO_VALUE = re.compile(
    r"(?:in)?(?:wrong|right|correct|clear|obvious|unknown|not|given|found|obtained|as|that|this|within|the same|in)\b",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\$\$([^$]{1,400})\$\$|\$((?:[^$\\]|\\.){1,400})\$|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL
)
_BETWEEN_MATH = re.compile(r"\s*(?:,|;|and|or|, and|, or)\s*")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_LONGEST_STATED, _MOST_STATED_WORDS = 160, 10

# Headings behind an answer, of the level that GSM8K states answers in
_HEADING_WORD = re.compile(
    r"(?:key |final |side )?(?:notes?|explanations?|remarks?|verification|checks?|references?|summary|conclusion"
    r"|solution|answer|steps?|reasoning|discussion|comments?)\b[:.]?",
    re.IGNORECASE,
)
# Only in a column
_END_TOKENS = re.compile(r"(?:\s*(?:<\|[^|<>\s]{1,40}\|>|</s>|<eos>|<end_of_turn>|<｜[^｜<>]{1,40}｜>))+\s*$")
_LABEL_OF_ANSWER = re.compile(
    r"(?:(?:q|question)\s?:.{0,2000}?\s)?(?:a|ans\.?|answer|solution|result|output)\s?(?:[:：]|(?<=ans\.))\s*"
    r"(\S.{0,160})",
    re.IGNORECASE | re.DOTALL,
)
_CONCLUSION = re.compile(
    r"(?:(?:and )?(?:thus|hence|therefore|so|then|finally)\b|we (?:get|have|find|obtain|conclude)\b)[^$]{0,200}"
    r"(?:\$[^$]{1,100}\$[^$]{1,100}\b(?:is|are|equals|be)\s)?\$([^$]{1,200})\$\s?\.?",
    re.IGNORECASE,
)
_LITERAL = re.compile(r"\{\s*[\"'].*\}|\[\s*[\"'].*\]|\(\s*[\"'].*\)|\[\s*[-\d.]+\s*\]|([\"'])[^\"']*\1", re.DOTALL)
_STRINGS_SIDE_BY_SIDE = re.compile(r"[\"']\s*[\"'](?=[^,:\]})\s])")
_LONGEST_LITERAL, _MOST_BRACKETS = 2000, 40
_MOST_LABELED_WORDS = 4
_PART_LABEL = re.compile(
    r"(?:(?<![^\s;,.])[*_]{0,2}(?:part\s)?\((?P<closed>[a-h]|i{1,3}|iv|v|\d)\)"
    r"|^[*_]{0,2}(?:part\s)?(?P<plain>[a-h]|i{1,3}|iv|v|\d)(?:\)|[.:](?=\s)))[*_]{0,2}:?\s*",
    re.MULTILINE | re.IGNORECASE,
)
_PART_SEQUENCES = ("abcdefgh", ("i", "ii", "iii", "iv", "v"), "123456789")
_LONGEST_PARTS = 400
_NUMBER_AND_STOP = re.compile(r"[-+]?(?:\d[\d,]*)?(?:\.\d+)?(?<=\d)\.")
_ASSIGNMENT = re.compile(r"\$?\s*\\?[A-Za-z]{1,10}\s*=\s*[^=\n]{1,60}")
_NO_ANSWERS = {
    "proof", "see solution", "see the solution", "not found", "notfound", "n/a", "nan", "null", "unsolved",
    "no answer",
}  # fmt: skip

# Wrappers that are taken off an answer, one within the other
_MOST_WRAPPERS = 8
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))
# A sentence of this many words is no usual answer, and is pointed out
_SENTENCE_WORDS = 10


# The answer, why it is none that can be attributed to, and what was done with a field that holds more
_Read = tuple[str | None, str | None, str | None]


class Box(NamedTuple):
    r"""
    A complete `\boxed{}` or `\fbox{}`.

    Args:
        start (`int`):
            Where its command starts.
        end (`int`):
            Where it ends.
        content (`str`):
            What stands in it, without surrounding white space.
    """

    start: int
    end: int
    content: str


def find_boxes(text: str) -> list[Box]:
    r"""
    Complete boxes of a text, in order; of boxes within one another the outermost.

    Args:
        text (`str`):
            Text of a solution.

    Returns:
        `list[Box]`: `\boxed{...}` and `\fbox{...}` with balanced braces, and `\boxed 5`.
    """
    # Command, content and end of each; contents are cut out last, since boxes within boxes would be cut out many times
    spans: list[tuple[int, int, int, int]] = []
    # Start of the command and of the content for a box, `None` for other braces
    open_braces: list[tuple[int, int] | None] = []
    position = 0

    def add(start: int, first: int, last: int, end: int) -> None:
        while spans and spans[-1][0] > start:
            spans.pop()
        spans.append((start, first, last, end))

    while token := _BOX_TOKENS.search(text, position):
        position = token.end()
        if token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                add(*opened, position - 1, position)
        elif len(token[0]) > 2:
            if brace := _OPENING_BRACE.match(text, position):
                position = brace.end()
                open_braces.append((token.start(), position))
            elif bare := _BARE_CONTENT.match(text, position):
                position = _end_of_arguments(text, bare)
                add(token.start(), bare.start(1), position, position)
    return [Box(start, end, text[first:last].strip()) for start, first, last, end in spans]


def _end_of_arguments(text: str, bare: re.Match) -> int:
    r"""Where the unbraced content of a box ends: behind the arguments of its command (`\frac{1}{2}`, `\frac12`)."""
    position = bare.end()
    if bare[1].startswith("\\"):
        option = _OPTION.match(text, position)
        position = option.end() if option else position
        while group := _GROUP.match(text, position):
            position = group.end()
        if position == bare.end():  # `\\frac12`
            digits = _DIGITS.match(text, position)
            position = digits.end() if digits else position
    return position


def extract_boxed(text: str) -> str | None:
    r"""
    Content of the last complete box in `text` that is neither empty nor a placeholder (`\boxed{...}`, `\boxed{your
    answer}`), nested braces included.

    Args:
        text (`str`):
            Text of a solution.

    Returns:
        `str` or `None`: What stands inside, without surrounding white space; `""` if all boxes are empty, `None` if
        there is none.

    Examples:
    ```python
    >>> extract_boxed(r"so \boxed{1}, no, \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    ```
    """
    boxes = find_boxes(text)
    return next((box.content for box in reversed(boxes) if _is_filled(box)), "" if boxes else None)


def _is_filled(box: Box) -> bool:
    return not _PLACEHOLDER.fullmatch(box.content)


def final_boxes(text: str) -> list[str]:
    r"""
    The boxes that are the answer together: the last that is not empty, and those that a comma, `and` or `or` joins to
    it (`$x=\boxed{1}$ or $x=\boxed{2}$`).

    Args:
        text (`str`):
            Text of a solution.

    Returns:
        `list[str]`: Contents without repeats, in order; empty if there is no box with content.
    """
    last, found = None, []
    for box in reversed([box for box in find_boxes(text) if _is_filled(box)]):
        if last is not None:
            between = text[box.end : last.start]
            if len(between) > _LONGEST_BETWEEN or not _BETWEEN_BOXES.fullmatch(between):
                break
        found.append(_boxed_term(text, box))
        last = box
    return list(dict.fromkeys(reversed(found)))


def _boxed_term(text: str, box: Box) -> str:
    r"""What a box holds, with a sign or factor in front of it and a power or base behind it: `-\boxed{5}` is -5."""
    content = unwrap_answer(box.content)
    before, behind = text[max(0, box.start - _MOST_AROUND) : box.start], text[box.end : box.end + _MOST_AROUND]
    term = content
    base = _BASE_BEHIND.match(behind)
    if base and content.replace(",", "").isalnum():
        term = f"{content}_{base[1]}"
    elif power := _POWER_BEHIND.match(behind):
        term = f"{content if _ONE_SYMBOL.fullmatch(content) else f'({content})'}^{power[1]}"
    front = _IN_FRONT.search(before)
    if not front or not front[0]:
        return term
    sign, space, factor = front.groups()
    rest = before[: front.start()]
    in_text = bool(_WORD_BEFORE.search(rest)) and not space
    # A minus behind an operand subtracts, one and a space at the beginning of a line is a bullet, digits behind
    # letters count something
    begins = bool(_FORMULA_BEGINS.search(rest)) and not (space and not rest.strip(" ").rpartition("\n")[2])
    if not begins and not (sign and in_text):
        return term
    if factor and not behind[:1].isdigit():
        term = f"{factor} \\cdot {term}" if term[:1].isdigit() else factor + term
    elif factor:
        return term
    elif sign and not _ONE_SYMBOL.fullmatch(content) and re.search(r"[+\-−]", content[1:]):
        term = f"({term})"
    return (sign or "") + term


def extract_answer(text: str) -> str | None:
    r"""
    Final answer that a response states.

    In this order: the last `\boxed{}` (or `\fbox{}`, `\boxed 5`) that is not empty, with those that are joined to it;
    what follows the last `####` (the form of GSM8K); `<answer>5</answer>`; an announcement ("The answer is 5.",
    "**Answer:** 5"); a single value in bold in the last paragraph.

    Args:
        text (`str`):
            What a model wrote behind its reasoning, or a solution without one.

    Returns:
        `str` or `None`: The answer, empty if only an empty box or `####` is there; `None` if there is no such form.

    Examples:
    ```python
    >>> extract_answer("We add. The answer is **5**.")
    '5'
    ```
    """
    marked = marked_answer(text)
    if marked:
        return marked
    stated = _tagged(text) or _announced(text) or _bold(text)
    return stated if stated else marked


def marked_answer(text: str) -> str | None:
    r"""
    Final answer in a form that nobody uses by the way: `\boxed{}`, else `####`.

    Args:
        text (`str`):
            Text, such as a reasoning that was cut off.

    Returns:
        `str` or `None`: See [`extract_answer`].
    """
    boxes = final_boxes(text)
    if boxes:
        return ", ".join(boxes)
    hashes = _hashes(text)
    if hashes:
        return hashes
    return "" if hashes is not None or find_boxes(text) else None


def answer_of_field(value: Any) -> tuple[str | None, str | None, str | None]:
    r"""
    Answer in a dataset's column, whatever stands there: a number, a tensor, a list, a struct with one value, text in
    dollars or in a box, a whole solution that states its answer.

    Args:
        value (`Any`):
            Value of the column.

    Returns:
        `tuple[str | None, str | None, str | None]`: The answer (`None` where the column is empty); why it is none that
        can be attributed to, if so (it is then returned as it stands); and what was done with a field that holds more
        than an answer.
    """
    if is_missing(value):
        return None, None, None
    value = _plain_value(value)
    if isinstance(value, Mapping):
        filled = {name: entry for name, entry in value.items() if not is_missing(entry)}
        named = [filled[name] for name in ("answer", "final_answer", "value", "text", "label") if name in filled]
        if len(filled) != 1 and not named:
            names = ", ".join(map(str, filled)) or "nothing"
            return str(dict(value)), f"the answer is a struct ({names}), of which none is called 'answer'", None
        text, problem, note = answer_of_field(named[0] if named else next(iter(filled.values())))
        return text, problem, note or "the answer is a struct, of which one field was taken"
    if isinstance(value, (list, tuple)):
        parts = [answer_of_field(part) for part in value]
        problem = next((problem for _, problem, _ in parts if problem), None)
        if any(isinstance(_plain_value(part), (list, tuple)) for part in value):
            problem = "the answer is a table of several rows"
        note = next((note for _, _, note in parts if note), None)
        return ", ".join(text for text, _, _ in parts if text is not None), problem, note
    if isinstance(value, (bytes, bytearray)):
        return repr(bytes(value)), "the answer is bytes, not text", None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # `27.0` from a float column is the integer 27
    # `str` refuses integers of more than 4,300 digits
    return _answer_of_text(str(Decimal(value) if type(value) is int else value), answer_of_field)


def is_missing(value: Any) -> bool:
    """
    Whether a column holds nothing.

    Args:
        value (`Any`):
            Value of the column.

    Returns:
        `bool`: True for `None` and NaN, which is how pandas and CSV files say it.
    """
    value = _plain_value(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain_value(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        return value
    if str(getattr(value, "dtype", "")).endswith(("float32", "float16")):
        # As a double, a float32 of 0.1 would be written 0.10000000149011612
        value = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return np.array([float(str(number)) for number in value.flat]).reshape(value.shape).tolist()
    # Tensors, arrays and their scalars know how to become Python's own
    return value.tolist()


def _is_value(text: str) -> bool:
    return not _WORD.search(_ENVIRONMENT.sub("", text))


def _answer_of_text(text: str, read: Callable[[Any], _Read]) -> _Read:
    """`read` is [`answer_of_field`]. By its name these two would call one another in a circle, in which `datasets`
    loses itself when it hashes a person's function that reads traces."""
    text = text.strip()
    end = _END_TOKENS.search(text, max(0, len(text) - _LONGEST_STATED))
    text = unwrap_answer(text[: end.start()] if end else text)
    literal = _literal(text)
    answer, problem, note = (None, None, None) if literal is None else read(literal)
    if answer is not None:
        if problem is None and note is None and not isinstance(literal, str):
            note = "the answer is the text of a list, whose value was taken"
        return answer, problem, note
    if text.casefold() in _NO_ANSWERS:
        return text, f"the answer is {text!r}, which stands for a missing one", None
    more = "the answer column holds more than the answer: what it states as the answer was taken"
    *_, last = [None, *_CLOSED.finditer(text)]
    if last is not None and text[last.end() :].strip():
        return (*_answer_of_text(text[last.end() :], read)[:2], more)
    if "\\boxed" in text or "\\fbox" in text or "####" in text:
        # GSM8K's solutions have lost their newlines in some copies
        marked = marked_answer(text) or unwrap_answer(text.rpartition("####")[2].partition("\n")[0])
        if marked and marked != text:
            return marked, None, more
        if text.startswith(("\\boxed", "\\fbox")) and not find_boxes(text):
            return text, "the answer has a box that is not closed, so its end may be missing", None
    parts = labeled_parts(text)
    if parts:
        return ", ".join(parts), None, "the answer has several labeled parts: their values were taken, in order"
    lines = [line for line in text.splitlines() if line.strip()]
    stated = None if _is_value(text) and "答案" not in text else _tagged(text) or _announced(text)
    if len(lines) > 1:
        stated = stated or _bold(text)
        if not stated and _is_value(text) and text.startswith(("\\", "{", "(", "[")):  # a matrix, written in lines
            return " ".join(text.split()), None, None
        if not stated and all(_ASSIGNMENT.fullmatch(line.strip()) for line in lines):
            return ", ".join(unwrap_answer(line) for line in lines), None, None
    stated = stated or _labeled_or_concluded(text)
    if stated:
        return stated, None, more
    if len(lines) > 1:
        return text, f"the answer has {len(lines)} lines and does not say which holds the answer", None
    words = sum(len(word) > 1 and word.isalpha() for word in text.split())
    if words >= _SENTENCE_WORDS:
        return text, None, "the answer is a whole sentence, and was taken as it is"
    # `= 5`, and the full stop behind a number
    text = text[1:].strip() if text.startswith("=") and text[1:].strip() else text
    return (text[:-1] if _NUMBER_AND_STOP.fullmatch(text) else text), None, None


def _literal(text: str) -> Any:
    """The list, struct or quoted value that was written as text (`['5']`, `{"answer": 5}`); `None` if it is none."""
    if len(text) > _LONGEST_LITERAL or not _LITERAL.fullmatch(text) or _STRINGS_SIDE_BY_SIDE.search(text):
        return None
    if sum(map(text.count, "([{")) > _MOST_BRACKETS:
        return None
    value = None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None if isinstance(value, (set, bytes, complex)) or not value else value


def _labeled_or_concluded(text: str) -> str | None:
    """Answer behind `A:` or `Result:`, or in a sentence that draws a conclusion ("Thus, $x = 5$.")."""
    labeled = _LABEL_OF_ANSWER.fullmatch(text)
    if labeled and "\n" not in labeled[1] and len(labeled[1].split()) <= _MOST_LABELED_WORDS:
        return unwrap_answer(labeled[1]).rstrip(". ") or None
    concluded = _CONCLUSION.fullmatch(text) if len(text) < _LONGEST_LITERAL else None
    return concluded[1].strip() if concluded else None


def labeled_parts(text: str) -> list[str]:
    """
    Values of an answer in labeled parts: `(a) 5 (b) 6`, or numbered lines.

    Args:
        text (`str`):
            An answer.

    Returns:
        `list[str]`: The values in order, empty if the text is no such answer.
    """
    if len(text) > _LONGEST_PARTS:
        return []
    found = list(_PART_LABEL.finditer(text))
    labels = [(match["closed"] or match["plain"]) for match in found]
    if len(found) < 2 or found[0].start() > 0 or not any(labels == list(s[: len(found)]) for s in _PART_SEQUENCES):
        return []
    ends = [match.start() for match in found[1:]] + [len(text)]
    parts = [text[match.end() : end].strip(" \n;,") for match, end in zip(found, ends, strict=True)]
    parts = [unwrap_answer(part).rstrip(".") for part in parts]
    short = all(part and "\n" not in part and len(part.split()) <= _MOST_STATED_WORDS for part in parts)
    return parts if short else []


def unwrap_answer(text: str) -> str:
    r"""
    An answer without what stands around it: dollars, `\(...\)`, bold, a box, a tag.

    Args:
        text (`str`):
            An answer.

    Returns:
        `str`: What stands inside.
    """
    text = text.strip()
    for _ in range(_MOST_WRAPPERS):
        before = text
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : len(text) - len(closing)]
            if (
                len(text) > len(opening) + len(closing)
                and text.startswith(opening)
                and text.endswith(closing)
                and not text.endswith("\\" + closing)
                and opening[0] not in inner.replace("\\" + opening[0], "")
                and not (opening[0] == "\\" and (opening in inner or closing in inner))
            ):
                text = inner.strip()
        if text.startswith(("\\boxed", "\\fbox")):
            boxes = find_boxes(text)
            if len(boxes) == 1 and boxes[0].content and not text[boxes[0].end :].strip(" ."):
                text = boxes[0].content
        tagged = _TAGGED.fullmatch(text)
        text = tagged[1].strip() if tagged else text
        if text == before:
            break
    return text


def _hashes(text: str) -> str | None:
    """What follows the last `####` that is no heading; empty if nothing does, `None` if there is none."""
    found, last, words = None, "", None
    for line in reversed(text.split("\n")):
        line = line.strip(" \t\r")
        if line.startswith("####") and not line.startswith("#####"):
            content = line[4:].strip()
            if content and _is_value(content):
                return unwrap_answer(content)
            if content and not last and not _HEADING_WORD.fullmatch(content):
                words = unwrap_answer(content)
            found = "" if not content else found
        last = last or line
    return words or found


def _tagged(text: str) -> str | None:
    tagged = [unwrap_answer(match[1]) for match in _TAGGED.finditer(text)]
    return next((answer for answer in reversed(tagged) if answer), None)


def _announced(text: str) -> str | None:
    """What the last announcement of an answer announces."""
    for match in reversed(list(_ANNOUNCED.finditer(text))):
        value = _stated_value(text, match.end())
        if value:
            return value
    *_, option = [None, *_OPTION_IS_RIGHT.finditer(text)]
    if option:
        return option[1]
    # A heading alone in its line, and a line with the answer
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for heading, line in reversed(list(itertools.pairwise(lines))):
        if len(heading) < 40 and _ANSWER_HEADING.fullmatch(heading):
            return _stated_value(line, 0)
    return None


def _stated_value(text: str, position: int) -> str | None:
    rest = text[position : position + 3 * _LONGEST_STATED]
    rest = rest[_FILLERS.match(rest).end() :]  # type: ignore[union-attr]
    values: list[str] = []
    place = 0
    while math_text := _MATH.match(rest, place):
        if math_text[2] is not None and math_text[2][0].isdigit() and rest[math_text.end() :][:1].isdigit():
            values = []  # the dollars of `$5 and not $6` are money
            break
        values.append(next(group for group in math_text.groups() if group is not None).strip())
        between = _BETWEEN_MATH.match(rest, math_text.end())
        if not between:
            break
        place = between.end()
    joined = ", ".join(_last_side(value) for value in values) or None
    if joined and not _MORE_BEHIND.match(rest, math_text.end() if math_text else place):
        return joined
    end = _STATED_END.search(rest)
    value = unwrap_answer(rest[: end.start()] if end else rest).lstrip("*_` ").rstrip("*_`. ")
    if not value or len(value) > _LONGEST_STATED or len(value.split()) > _MOST_STATED_WORDS or _NO_VALUE.match(value):
        return joined
    return _last_side(value)


def _last_side(value: str) -> str:
    """`15` of `20 - 5 = 15`; other equations as they are."""
    left, _, right = value.rpartition("=")
    return right.strip() if right.strip() and left and all(map(_SUM.fullmatch, left.split("="))) else value


def _bold(text: str) -> str | None:
    """The only bold value of the last paragraph."""
    paragraph = text.rstrip().rpartition("\n\n")[2][-2000:]
    bold = _BOLD.findall(paragraph)
    if len(bold) != 1 or bold[0].rstrip().endswith(":") or not _is_value(bold[0]):
        return None
    return unwrap_answer(bold[0]).rstrip(". ")
