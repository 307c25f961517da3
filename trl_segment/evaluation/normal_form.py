r"""
The normal form of an answer, in which answers are compared: how it is written, and what it says beyond its value (an
inequality, a base, a choice).
"""

import re
import unicodedata
from typing import NamedTuple

from ..traces.answers import unwrap_answer
from .quantities import Unit, number_in_words, split_unit


TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol|mbox)"
WHOLE_TEXT = re.compile(rf"{TEXT_COMMAND}\s*\{{([^{{}}]*)\}}")
EMPTY = "\\emptyset"
# A longer answer is text that no algebra reads
LONGEST_ANSWER = 5000

_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?)0*(\d+)")
_DOLLAR = re.compile(r"(?<!\\)\$")
_NOTHING = re.compile(
    r"none|(?:the )?empty set|\\\{\s?\\\}|(?:(?:there (?:is|are)|it has|has) )?no"
    r"(?: (?:real|integer|integral|rational|complex|positive|natural|valid|possible|such))*"
    r" (?:solutions?|roots?|values?|numbers?|integers?|answers?|pairs?|triples?)(?: exists?)?",
    re.IGNORECASE,
)
# What stands for a variable. A constant does not.
_CONSTANT = r"\\(?:pi|infty|emptyset|[lg]e|neq|in|cup|frac|sqrt)(?![A-Za-z])"
_NAME = rf"(?:(?!{_CONSTANT})(?:\\[A-Za-z]{{2,10}}|[A-Za-z]))(?:_\{{?\w{{1,5}}\}}?)?"
_ONE_NAME = re.compile(_NAME)
_MEMBER = re.compile(rf"({_NAME})\s?\\in(?![A-Za-z])\s?(.+)")
_BUILDER = re.compile(rf"\\\{{\s?({_NAME})\s?(?:\\in\s?\\mathbb\s?\{{?R\}}?\s?)?(?:\\mid|\\vert|:|\|)\s?(.+?)\s?\\\}}")
_RELATION = re.compile(r"\s?(\\[lg]e(?![A-Za-z])|\\neq(?![A-Za-z])|<|>)\s?")
_EITHER = re.compile(r"\s?(?:(?<![A-Za-z\\])or(?![A-Za-z])|\\l?or(?![A-Za-z])|\\vee(?![A-Za-z])|\\cup(?![A-Za-z]))\s?")
_BOTH = re.compile(r"\s?(?:(?<![A-Za-z\\])and(?![A-Za-z])|\\land(?![A-Za-z])|\\wedge(?![A-Za-z]))\s?")
_BOUNDS_IN_WORDS = {
    "\\ge": "at least|(?:no|not) (?:less|fewer|smaller) than|a minimum of",
    "\\le": "at most|(?:no|not) (?:more|greater|larger) than|a maximum of|up to",
    ">": "(?:more|greater|larger|bigger|higher) than|over|above",
    "<": "(?:less|fewer|smaller|lower) than|under|below",
    "\\neq": "not(?: equal to)?|anything (?:but|except)",
}
_BOUND = re.compile(
    "(?:" + "|".join(f"({words})" for words in _BOUNDS_IN_WORDS.values()) + r")(?![A-Za-z])\s?(.+)", re.IGNORECASE
)
_BOUND_BEHIND = re.compile(
    r"(.+?) (?:or|and) (?:(more|greater|above|higher|larger|over)|less|fewer|below|lower|smaller|under)", re.IGNORECASE
)
_BETWEEN = re.compile(r"(?:strictly )?between (.+?) and (.+)", re.IGNORECASE)
_ABOUT = re.compile(
    r"(?:\\approx(?![A-Za-z])|\\sim(?![A-Za-z])|(?:about|approximately|approx\.?|roughly|around|exactly|nearly)(?![A-Za-z]))\s?",
    re.IGNORECASE,
)
_BASED = re.compile(r"\(?([0-9A-Z][0-9A-Z,]*)\)?\s?(?:_\s?\{?\s?\(?|(?:in )?base )(\d{1,2}|[a-z]{3,7})\)?\s?\}?")

_NO_LOWER, _NO_UPPER = "(-\\infty", "\\infty)"
_LONGEST_RANGE = 500

# Spellings of the same, in the order in which they are replaced
_SPELLINGS = [
    (re.compile(r"\\(?:[dtc]|nice|s|x)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text)?color\s?\{[A-Za-z]{1,20}\}|\\underline(?![A-Za-z])"), ""),
    (re.compile(r"\\mathrm\s?\{([eid])\}"), r"\1"),
    (re.compile(r"\\([lr])brace(?![A-Za-z])"), lambda match: r"\{" if match[1] == "l" else r"\}"),
    (re.compile(r"^(-?\d{1,20})\s+(\d{1,20})\s?/\s?(\d{1,20})$"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\^\s?\{\s?\\circ\s?\}|\\degree(?![A-Za-z])|\^\s\\circ"), r"^\\circ"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle)(?![A-Za-z])\s?\.?"), ""),
    (re.compile(r"\\(?:quad|qquad)(?![A-Za-z])|~"), " "),
    (re.compile(r"\\leq(?:slant)?(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\ne(?![A-Za-z])|!="), r"\\neq"),
    (re.compile(r"<=|=<"), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"\\([lg])t(?![A-Za-z])"), lambda match: "<" if match[1] == "l" else ">"),
    # `6.02 x 10^23`, where LaTeX would raise the 2 alone
    (
        re.compile(
            r"(?<=\d)\s?(?:\\times|\\cdot|[xX*])\s?10\s?\^\s?(?:\{\s?([+-]?\d{1,4})\s?\}|([+-]?\d{1,4})(?![\d.]))"
        ),
        lambda match: f"\\times 10^{{{(match[1] or match[2]).lstrip('+')}}}",
    ),
    # A repeating decimal
    (re.compile(r"(?<=[\d.])((?:\d\u0305){1,20})"), lambda match: f"\\overline{{{match[1].replace(chr(0x305), '')}}}"),
    (re.compile(r"(\.\d{0,20})\\(?:bar|dot)\s?\{(\d{1,20})\}"), r"\1\\overline{\2}"),
    (re.compile(r"^([+-]?\d{0,20}\.\d{0,20}?)(\d{1,6}?)\2{2,20}(?:\\l?dots|\.\.\.)\s?$"), r"\1\\overline{\2}"),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ","),
    (re.compile(r"(?<=\d)\\[,!; ]\s?(?=\d{3}(?!\d))"), ""),
]
_SIGNS = {
    **dict.fromkeys("−‐‑‒–—", "-"),
    **dict.fromkeys("°º˚", "^\\circ "),
    **dict.fromkeys("⋅·∙•", "\\cdot "),
    **dict.fromkeys("≤⩽", "\\le "),
    **dict.fromkeys("≥⩾", "\\ge "),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("∅⌀", "\\emptyset "),
    **dict(zip("×÷±∓≠≈∞", map("\\{} ".format, ("times", "div", "pm", "mp", "neq", "approx", "infty")), strict=True)),
    **dict(
        zip(
            "∪∩∈∉⊂⊆∖",
            map("\\{} ".format, ("cup", "cap", "in", "notin", "subset", "subseteq", "setminus")),
            strict=True,
        )
    ),
    **dict(zip("→∠…≡", map("\\{} ".format, ("to", "angle", "ldots", "equiv")), strict=True)),
    **dict(zip("ℝℤℚℕℂ", map("\\mathbb{{{}}}".format, "RZQNC"), strict=True)),
    **dict(zip("′″", ("'", "''"), strict=True)),
}
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_ROOT = re.compile(r"([√∛∜])\s?(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|\\?[A-Za-z]+))")


def plain_answer(answer: str) -> str:
    r"""
    An answer in its plainest writing: without what only concerns its looks (dollars, a box, bold, `\text`, thin
    spaces, a final full stop), Unicode's signs as LaTeX, one spelling of the same command.

    Args:
        answer (`str`):
            LaTeX or text.

    Returns:
        `str`: The same answer, plainer.
    """
    answer = _without_dollars(_latex(_unquoted(unwrap_answer(answer))))
    whole = WHOLE_TEXT.fullmatch(answer)
    answer = whole[1] if whole else answer
    for spelling, replacement in _SPELLINGS:
        answer = spelling.sub(replacement, answer)
    answer = re.sub(r"\\[!,;: ]", "", answer).strip().rstrip(".,").removesuffix("\\\\").strip()
    scientific = _SCIENTIFIC.fullmatch(answer)
    if scientific:
        sign = "-" if scientific[2] == "-" else ""
        answer = f"{scientific[1]} \\times 10^{{{sign}{scientific[3]}}}"
    answer = " ".join(answer.replace("np.", "\\").split())
    return EMPTY if len(answer) < 100 and _NOTHING.fullmatch(WHOLE_TEXT.sub(r"\1", answer)) else answer


def _without_dollars(text: str) -> str:
    """Dollars around formulas are taken out; those in front of an amount are written `\\$`."""
    if "$" not in text:
        return text
    dollars = [match.start() for match in _DOLLAR.finditer(text)]
    money = len(dollars) % 2 or any(text[second + 1 : second + 2].isdigit() for second in dollars[1::2])
    return _DOLLAR.sub(r"\\$" if money else "", text)


def _unquoted(text: str) -> str:
    for opening, closing in ('""', "''", "“”", "‘’", "``"):
        if len(text) > 2 and text[0] == opening and text[-1] == closing and opening not in text[1:-1]:
            return text[1:-1].strip()
    return text


def _latex(text: str) -> str:
    """Unicode's signs, fractions, powers and letters as LaTeX."""
    if text.isascii():
        return text
    text = _ROOT.sub(lambda m: f"{_ROOTS[m[1]]}{{{m[2] or m[3] or m[4] or ''}}}", text)
    pieces: list[str] = []
    script = ""
    for character in text:
        kind = unicodedata.decomposition(character).partition(" ")[0]
        raised = {"<super>": "^", "<sub>": "_"}.get(kind, "") if character not in _SIGNS else ""
        if raised != script:  # a run of raised digits is one power
            pieces.append(("}" if script else "") + (f"{raised}{{" if raised else ""))
            script = raised
        if character in _SIGNS:
            pieces.append(_SIGNS[character])
        elif kind == "<fraction>":
            above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
            pieces.append(f"\\frac{{{above}}}{{{below}}}")
        elif unicodedata.category(character) != "Cf":
            pieces.append(_latex_sign(unicodedata.normalize("NFKC", character)))
    return "".join(pieces) + ("}" if script else "")


def _latex_sign(character: str) -> str:
    words = unicodedata.name(character, "").split() if len(character) == 1 else []
    if len(words) == 4 and words[0] == "GREEK" and words[2] == "LETTER":
        name = {"LAMDA": "lambda", "OMICRON": "o"}.get(words[3], words[3].lower())
        return f"\\{name.capitalize() if words[1] == 'CAPITAL' else name} "
    return _SIGNS.get(character, character)


class Form(NamedTuple):
    """
    What an answer says.

    Args:
        text (`str`):
            Its value: without its unit, a number in words as digits, an inequality as an interval.
        unit ([`~trl_segment.evaluation.quantities.Unit`] or `None`):
            Its unit, if it has one that is known.
        whole (`str`):
            The same with its unit.
        name (`str`, *optional*, defaults to `""`):
            Of an inequality the variable.
        is_range (`bool`, *optional*, defaults to `False`):
            Whether it is an inequality, in signs or in words.
    """

    text: str
    unit: Unit | None
    whole: str
    name: str = ""
    is_range: bool = False


def normal_form(answer: str) -> Form:
    r"""
    The normal form of an answer.

    Args:
        answer (`str`):
            An answer as [`plain_answer`] writes it, of at most 5,000 characters.

    Returns:
        [`Form`]: What it says.
    """
    opened = _opened(answer)
    about = _ABOUT.match(opened)
    if about and opened[about.end() :]:
        answer = opened[about.end() :]
    text, unit = split_unit(answer)
    opened = _opened(text)
    found = _as_range(opened)
    if found is not None:
        return Form(found[1], unit, found[1], found[0], True)
    number = number_in_words(opened)
    return Form(number or text, unit, number if number and unit is None else answer)


def _opened(text: str) -> str:
    """Text without its commands."""
    return " ".join(WHOLE_TEXT.sub(r" \1 ", text).split()) if "\\" in text else text


def based_number(answer: str) -> tuple[str, str] | None:
    r"""
    Digits and base of a number that names its base: `52_8`, `52_{\text{eight}}`, "52 base 8".

    Args:
        answer (`str`):
            An answer as [`plain_answer`] writes it.

    Returns:
        `tuple[str, str]` or `None`: Both as text; `None` if it is no such number.
    """
    found = _BASED.fullmatch(_opened(answer).replace("{ ", "{").replace(" }", "}")) if len(answer) < 200 else None
    if not found:
        return None
    base = number_in_words(found[2]) or found[2]
    return (found[1].replace(",", "").lstrip("0") or "0", base) if base.isdigit() else None


def _as_range(text: str) -> tuple[str, str] | None:
    r"""The variable of an inequality and the values that it may have: `2 \le x < 5` is `x` and `[2,5)`."""
    if len(text) > _LONGEST_RANGE:
        return None
    built = _BUILDER.fullmatch(text)
    if built:
        return _as_range(built[2])
    member = _MEMBER.fullmatch(text)
    if member and "\\in " not in member[2]:
        return member[1], member[2]
    for joint in (_EITHER, _BOTH):
        pieces = joint.split(text)
        ranges = [_bounds(piece.strip()) for piece in pieces]
        if len(pieces) == 1 or None in ranges or len({name for name, *_ in ranges if name}) > 1:  # type: ignore[misc]
            continue
        name = next((name for name, *_ in ranges if name), "")  # type: ignore[misc]
        if joint is _EITHER:
            return name, "\\cup".join(f"{lower},{upper}" for _, lower, upper in ranges)  # type: ignore[misc]
        lowers = [lower for _, lower, _ in ranges if lower != _NO_LOWER]  # type: ignore[misc]
        uppers = [upper for _, _, upper in ranges if upper != _NO_UPPER]  # type: ignore[misc]
        if len(lowers) == len(uppers) == 1:
            return name, f"{lowers[0]},{uppers[0]}"
    bounds = _bounds(text)
    if bounds is None:
        return None
    name, lower, upper = bounds
    return name, f"{lower},{upper}"


def _bounds(text: str) -> tuple[str, str, str] | None:
    r"""Variable, lower and upper bound of one inequality, with their brackets."""
    between = _BETWEEN.fullmatch(text)
    if between and _is_amount(between[1]) and _is_amount(between[2]):
        return "", f"({between[1]}", f"{between[2]})"
    behind = _BOUND_BEHIND.fullmatch(text)
    if behind and _is_amount(behind[1]):
        return _bounds(f"\\{'ge' if behind[2] else 'le'} {behind[1]}")
    words = _BOUND.fullmatch(text)
    if words and _is_amount(words[words.lastindex or 0]):
        relation = list(_BOUNDS_IN_WORDS)[next(i for i, found in enumerate(words.groups()) if found)]
        return _bounds(f"{relation} {words[words.lastindex or 0]}")
    parts = _RELATION.split(text)
    sides, relations = [side.strip() for side in parts[::2]], parts[1::2]
    if any("," in side or "=" in side for side in sides) or not all(sides[1:]):
        return None
    if len(sides) == 3 and _ONE_NAME.fullmatch(sides[1]):
        if all(relation in ("<", "\\le") for relation in relations):
            low, high = 0, 2
        elif all(relation in (">", "\\ge") for relation in relations):
            low, high = 2, 0
        else:
            return None
        brackets = {"<": "()", ">": "()", "\\le": "[]", "\\ge": "[]"}
        lower, upper = brackets[relations[low // 2]][0], brackets[relations[high // 2]][1]
        return sides[1], _bound(lower, sides[low]), _bound(upper, sides[high])
    if len(sides) != 2:
        return None
    left, right = sides
    relation = relations[0]
    if _ONE_NAME.fullmatch(right) and not _ONE_NAME.fullmatch(left) and left:
        left, right = right, left
        relation = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\neq": "\\neq"}[relation]
    elif (left and not _ONE_NAME.fullmatch(left)) or _ONE_NAME.fullmatch(right):
        return None
    if relation == "\\neq":
        return left, f"{_NO_LOWER},{right})\\cup({right}", _NO_UPPER
    if relation in ("<", "\\le"):
        return left, _NO_LOWER, _bound(")" if relation == "<" else "]", right)
    return left, _bound("(" if relation == ">" else "[", right), _NO_UPPER


def _bound(bracket: str, value: str) -> str:
    if "\\infty" in value:
        bracket = {"[": "(", "]": ")"}.get(bracket, bracket)
    return bracket + value if bracket in "([" else value + bracket


def _is_amount(text: str) -> bool:
    return text[:1] in tuple("+-.\\(0123456789") or number_in_words(text) is not None
