r"""
Where a reasoning states the answer, in whatever spelling.

Once a step says "so x = 48", the answer can be copied from there, and every other step looks useless to whoever asks
what the answer needs. These places can be hidden from the attribution model.
"""

import itertools
import re
from bisect import bisect_left
from fractions import Fraction

from .trace import Span


STATEMENTS = ("visible", "only_first", "hidden")

_SIGN = r"[-−–]"
_DIGITS = r"\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)|\d+"
# A number as text and LaTeX write it; each alternative takes all that belongs to it
_NUMBER = re.compile(
    rf"\\[dtc]?frac\s?(?:\{{\s?({_SIGN}?\d+)\s?\}}\s?\{{\s?(\d+)\s?\}}|(\d)\s?(\d)(?!\d))"
    rf"|({_DIGITS})(\.\d+)?(?:\s?/\s?(\d+)(?![\d.]))?|(\.\d+)"
)
# Numbers in words
ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORD = re.compile(rf"\b(?:({'|'.join(TENS)})(?:[- ]({'|'.join(ONES[1:10])}))?|({'|'.join(ONES)}))\b", re.I)
# Digits that are part of something else: an index, an exponent, a variable with a coefficient, a decimal place
_GLUED_BEFORE = re.compile(r"(?<![A-Za-z])[A-Za-z]\Z|[_^]\Z|[_^]\s?\{\s?\Z|\d\.\Z")
_GLUED_AFTER = re.compile(r"[A-Za-z](?![A-Za-z])|[_^]|\s?\\(?:sqrt|pi)(?![A-Za-z])")
_OPERAND = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|[\d)}\]])\s*\Z")

# What does not change a formula: white space, dollars, sizes of brackets, thin spaces
_LOOKS = re.compile(
    r"\s+|\$+|\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|quad|qquad)(?![A-Za-z])|\\[,;:! ]|~"
)
_SAME_COMMAND = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_LETTER = re.compile(r"\(?([A-Ja-j])\)?[.:]?")
_IN_BRACKETS = re.compile(r"[(\[](.+)[)\]]|\\\{(.+)\\\}|\{(.+)\}", re.DOTALL)

_COMMA = re.compile(r"[\s$]*(?:[,;&]|\\?and\b|,\s*and\b)[\s$]*")

# Parts of one answer are a statement of it where they stand this close together, in characters: with so much between
# two neighbors as a word or a sign of equality with a name takes
_MOST_BETWEEN_PARTS = 24
_MOST_PARTS = 32
# So many characters in front of a place tell what it is part of
_LOOK_BACK = 12


def find_statements(text: str, answer: str) -> list[Span]:
    r"""
    Places of a text at which an answer stands.

    A number is found in every spelling of its value (`1,000`, `1000.0`, `\frac{1}{2}`, `0.5`, `two`), a formula with
    other spaces and brackets, a word in either case, an option as `(B)`, `\text{B}`, `option B` or in a box. Of an
    answer with several parts (`3, 4`, `x=1, y=2`) a place is a statement where all parts stand close together, in
    any order. Digits that are part of something else (`x_5`, `x^5`, `5y`) state nothing.

    Args:
        text (`str`):
            Text, such as a reasoning.
        answer (`str`):
            The answer.

    Returns:
        `list[tuple[int, int]]`: Character spans, in order, without overlaps. Work is linear in the text.

    Examples:
    ```python
    >>> find_statements("half of 96 is 48, so x = 48.0", "48")
    [(14, 16), (25, 29)]
    ```
    """
    answer = _TEXT.sub(r"\1", answer).strip()
    parts = _parts(answer)
    if len(parts) == 1:
        return _merged(_single(text, parts[0]))
    together = _together(text, parts) if len(parts) <= _MOST_PARTS else []
    return _merged(_literal(text, answer) + together)


def _single(text: str, value: str) -> list[Span]:
    """Places of an answer that is one value."""
    letter = _LETTER.fullmatch(value)
    if letter:
        name = re.escape(letter[1])
        found = re.finditer(
            rf"\(\s?{name}\s?\)|(?:\b(?:option|choice|answer(?:\s+is)?:?)\s+|\{{\s?|\*\*)({name})(?![A-Za-z])",
            text,
            re.IGNORECASE if letter[1].isupper() else 0,
        )
        return [match.span(1) if match[1] else match.span() for match in found]
    number = _number(value)
    return _literal(text, value) if number is None else _numbers(text, number)


def _number(value: str) -> Fraction | None:
    value = value.strip().strip("$").removesuffix("\\%").removesuffix("%").strip()
    negative = re.match(_SIGN, value)
    body = value[negative.end() :].strip() if negative else value.removeprefix("+")
    match = _NUMBER.fullmatch(body)
    if match is None:
        return None
    size = _size(match)
    return None if size is None else -size if negative else size


def _size(match: re.Match) -> Fraction | None:
    above, below, digit_above, digit_below, whole, decimals, divisor, bare = match.groups()
    # Python refuses to read thousands of digits, and nobody states such an answer
    if match.end() - match.start() > 400:
        return None
    if bare is not None:
        return Fraction(f"0{bare}")
    if whole is None:
        above, below = above or digit_above, below or digit_below
        return Fraction(int(re.sub(_SIGN, "-", above)), int(below)) if int(below) else None
    size = Fraction(re.sub(r"\D", "", whole) + (decimals or ""))
    if divisor is None:
        return size
    return size / int(divisor) if int(divisor) else None


def _numbers(text: str, number: Fraction) -> list[Span]:
    found = []
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        before = text[max(0, start - _LOOK_BACK) : start]
        sign = re.search(rf"{_SIGN}\s?\Z", before)
        # In `10 - 5` the sign is an operator
        negative = sign is not None and not _OPERAND.search(before[: sign.start()])
        size = _size(match)
        if size is None or (-size if negative else size) != number:
            continue
        if not _GLUED_BEFORE.search(before) and not _GLUED_AFTER.match(text, end):
            found.append((start - len(sign[0]) if negative and sign else start, end))
    if number.denominator == 1 and 0 < number < 100:
        for match in _NUMBER_WORD.finditer(text):
            tens, ones, small = match.groups()
            value = ONES.index(small.lower()) if small else 10 * (TENS.index(tens.lower()) + 2)
            # "One" mostly counts nothing
            if value + (ONES.index(ones.lower()) if ones else 0) == number and number > 1:
                found.append(match.span())
    return found


def _literal(text: str, value: str) -> list[Span]:
    """Places of a value as it is spelled, but for looks and case."""
    wanted, _ = _plain(value)
    if not wanted:
        return []
    plain, places = _plain(text)
    words = wanted.isalpha()
    if words:
        wanted, plain = wanted.lower(), plain.lower()
    found, position = [], 0
    while (position := plain.find(wanted, position)) >= 0:
        start, end = places[position], places[position + len(wanted) - 1] + 1
        position += len(wanted)
        # The borders are those of the text, in which a space ends a word
        inside = text[start - 1 : start + 1] if start else ""
        behind = text[end - 1 : end + 1]
        if not _continues(inside) and not _continues(behind):
            found.append((start, end))
    return found


def _continues(pair: str) -> bool:
    """Whether two neighbors are of one word or number."""
    return len(pair) == 2 and (pair.isalpha() or pair.isdigit() or (pair[0].isdigit() and pair[1].isalpha()))


def _plain(text: str) -> tuple[str, list[int]]:
    """A text without what only concerns its looks, and where each of its characters stands."""
    characters: list[str] = []
    places: list[int] = []
    position = 0
    if len(text) != len(text.lower()):  # a letter that becomes two would shift all places
        text = "".join(c if len(c.lower()) == 1 else "\ufffd" for c in text)
    dropped = itertools.chain(
        (match.span() for match in _LOOKS.finditer(text)),
        ((match.start() + 1, match.start() + 2) for match in _SAME_COMMAND.finditer(text)),
    )
    for start, end in [*sorted(dropped), (len(text), len(text))]:
        if start < position:
            continue
        characters.append(text[position:start])
        places.extend(range(position, start))
        position = end
    return "".join(characters), places


def _parts(answer: str) -> list[str]:
    """The values that an answer lists, such as `3, 4` or `x=1, y=2` or `(3, 4)`."""
    inner, _ = _plain(answer)
    brackets = _IN_BRACKETS.fullmatch(inner)
    inner = inner if brackets is None else next(filter(None, brackets.groups()))
    if re.fullmatch(_DIGITS, answer) or "\\begin" in answer:
        return [answer]
    depth, parts = 0, [""]
    for character in inner:
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.removeprefix("and") for part in parts]
    return list(filter(None, parts)) if len(parts) > 1 else [answer]


def _together(text: str, parts: list[str]) -> list[Span]:
    """Places at which all parts stand close together, each part's own place."""
    wanted = list(dict.fromkeys(parts))
    named = [tuple(side.strip() for side in part.split("=", 1)) for part in wanted]
    if not all(len(sides) == 2 and all(sides) for sides in named):
        places = sorted((*span, index) for index, part in enumerate(wanted) for span in _single(text, part))
        return _close(places, len(wanted))
    pairs = [_named(text, name, value) for name, value in named]
    places = sorted((*span, index) for index, spans in enumerate(pairs) for span in spans)
    # Without their names, in order, as in a list
    values = sorted((*span, index) for index, (_, value) in enumerate(named) for span in _single(text, value))
    return _close(places, len(wanted)) + _listed(text, values, len(wanted))


def _close(places: list[tuple[int, int, int]], count: int) -> list[Span]:
    """Runs of places, each not far from the one before, that have all parts."""
    found: list[Span] = []
    run: list[tuple[int, int, int]] = []
    for place in places:
        if run and place[0] - run[-1][1] > _MOST_BETWEEN_PARTS:
            run = []
        run.append(place)
        if len({index for *_, index in run[-2 * count :]}) == count:
            found += [(start, end) for start, end, _ in run[-2 * count :]]
            run = []
    return found


def _listed(text: str, places: list[tuple[int, int, int]], count: int) -> list[Span]:
    """Runs of places in the order of the parts with nothing but commas and the like in between."""
    found = []
    begun = 0
    for index, (start, _, part) in enumerate(places):
        joined = index > 0 and 0 <= start - places[index - 1][1] <= _MOST_BETWEEN_PARTS
        if joined and part == index - begun and _COMMA.fullmatch(text, places[index - 1][1], start):
            if part == count - 1:
                found.append((places[begun][0], places[index][1]))
        else:
            begun = index if part == 0 else index + 1
    return found


def _named(text: str, name: str, value: str) -> list[Span]:
    """Places of `name = value` or "name is value"."""
    names = _literal(text, name)
    values = _single(text, value)
    starts = [start for start, _ in values]
    found = []
    for start, end in names:
        position = bisect_left(starts, end)
        if position < len(values):
            between = text[end : values[position][0]] if values[position][0] - end <= _LOOK_BACK else "far"
            if re.fullmatch(r"[\s$*]*(?:=|:|is|equals)[\s$*]*", between):
                found.append((start, values[position][1]))
    return found


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
