r"""
What can be told about two answers without computer algebra: equal forms, numbers, units, choices, words, bases,
inequalities, how many values there are. The rest is put into the form that Math-Verify reads.
"""

import re
from collections import Counter
from fractions import Fraction

from .normal_form import EMPTY, LONGEST_ANSWER, WHOLE_TEXT, Form, based_number, normal_form, plain_answer
from .quantities import Unit, exact_value, same_values


_NUMBER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)?(?:\.(\d+))?")
_WORDS = re.compile(r"[A-Za-z]{3,}([ '-]+[A-Za-z]+)*")
_NAMED_WORDS = re.compile(r"[A-Za-z]{3,} ?= ?[A-Za-z]{3,}(, ?[A-Za-z]{3,} ?= ?[A-Za-z]{3,})*")
# One letter of a multiple choice, and several
_LETTER = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\(([A-Ja-j])\)|([A-J]))[.:)]?")
_LETTER_WITH_TEXT = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\(([A-J])\)|([A-J])[.:)])\s*(\S.*)", re.DOTALL)
_LETTERS = re.compile(r"(?:\([A-J]\)|[A-J])(?:\s*(?:,|;|&|and)\s*(?:\([A-J]\)|[A-J]))+")
_LETTERS_IN_A_ROW = re.compile(r"(?:([A-J])(?!.*\1)){2,10}")
_ANOTHER_LETTER = re.compile(r"\([A-J]\)|(?:\b(?:or|and)|,)\s*\(?[A-J]\b")

_SYMBOL = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
_LONG_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_BRACKETS = re.compile(r"\\?[\[({]|\\?[\])}]|[,;]|\s?(?:\\text\s?\{)?\s?(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s?\}?")
_GROUPS_OF_DIGITS = re.compile(r"\d,\d{3}(?!\d)")
_NAMED = re.compile(r"(\\?[A-Za-z]+)\s?=\s?(.+)")
_A_SET = re.compile(r"[\[({|<>]|\\(?:cup|cap|mathbb|infty|[lg]e|neq|in|mid|setminus|emptyset)(?![A-Za-z])")
_MONEY = re.compile("[€£¥₹¢]")
# Names of functions and constants without their backslash, as people type them
_TYPED = re.compile(
    r"(?<![A-Za-z\\{])(pi|theta|infinity|infty|arc(?:sin|cos|tan)|(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|log|ln)(?=[\s({\d^_]|[a-z](?![a-z])))(?![a-z]{2})"
)
_TYPED_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s?\(([^()]*)\)")
_PERCENT, _ANGLE = frozenset({("percent", 1)}), frozenset({("angle", 1)})
_RADIAN = frozenset({("radian", 1)})


def compare_directly(gold: str, given: str) -> bool | None:
    """
    What can be said about two answers without computer algebra.

    Args:
        gold (`str`):
            The right answer.
        given (`str`):
            The answer to check.

    Returns:
        `bool` or `None`: Whether they are the same; `None` if that cannot be told.
    """
    if gold == given and gold:
        return True
    gold, given = plain_answer(gold), plain_answer(given)
    if gold == given:
        return True
    numbers = _NUMBER.fullmatch(gold), _NUMBER.fullmatch(given)
    if gold and given and numbers[0] and numbers[1]:
        return _digits(numbers[0]) == _digits(numbers[1])
    chosen = _same_choice(gold, given)
    if chosen is not None:
        return chosen
    if max(len(gold), len(given)) > LONGEST_ANSWER:
        return None
    if EMPTY in (gold, given) and not _A_SET.search(given if gold == EMPTY else gold):
        return False
    if _NAMED_WORDS.fullmatch(gold) and _NAMED_WORDS.fullmatch(given):
        # Each says what it is for, so neither order nor repetition matters
        one, other = (set(text.casefold().replace(" ", "").split(",")) for text in (gold, given))
        return one == other
    if _different_bases(gold, given):
        return False
    right, found = _paired_forms(gold, given)
    if not _may_be_converted(right.unit, found.unit):
        return False
    if right.is_range != found.is_range and not _A_SET.search(found.text if right.is_range else right.text):
        return False
    if right.is_range and found.is_range and right.name and found.name and right.name != found.name:
        return False
    if _WORDS.fullmatch(right.text):
        # Algebra would take a word for a product of letters, in which their order does not matter
        return right.text.casefold() == found.text.casefold()
    same = _same_amounts(right, found)
    if same is None:
        same = _same_parts(right.text, found.text)
    if same is None and right.unit == found.unit and right.text.replace(" ", "") == found.text.replace(" ", ""):
        return True
    if same is None and _differ_in_case(right.text, found.text):
        return False
    return same


def forms_for_algebra(gold: str, given: str) -> tuple[str, str]:
    r"""
    Two answers in the form that Math-Verify compares: without units where both have the same, typed names as commands
    (`pi` as `\pi`), both in one unit.

    Args:
        gold (`str`):
            The right answer.
        given (`str`):
            The answer to check.

    Returns:
        `tuple[str, str]`: LaTeX without delimiters.
    """
    gold, given = plain_answer(gold), plain_answer(given)
    return tuple(map(_algebra, _scaled(*_paired_forms(gold, given))))  # type: ignore[return-value]


def _paired_forms(gold: str, given: str) -> tuple[Form, Form]:
    """Normal forms, made alike where only one of them names a variable."""
    gold, given = _alike(gold, given)
    right, found = normal_form(gold), normal_form(given)
    # A letter that may be a unit is one where the other has that unit for sure
    for form, other in ((right, found), (found, right)):
        if form.unit is not None and not form.unit.sure and other.unit is None:
            unsure = form._replace(text=form.whole, unit=None)
            right, found = (unsure, found) if form is right else (right, unsure)
    return right, found


def _alike(gold: str, given: str) -> tuple[str, str]:
    if "=" not in gold:
        given = _without_variable(given)
    elif "=" not in given:
        gold = _without_variable(gold) if gold.count("=") == 1 and "," not in gold else gold
    else:
        right, found = _NAMED.fullmatch(gold), _NAMED.fullmatch(given)
        if right and found and "=" not in right[2] + found[2] and right[1].casefold() == found[1].casefold():
            return right[2], found[2]  # `X = 5` for `x = 5`
    return _with_names_as_tuple(gold, given), _with_names_as_tuple(given, gold)


def _may_be_converted(one: Unit | None, other: Unit | None) -> bool:
    """Whether two units measure the same, as far as is known."""
    if one is None or other is None or one.powers == other.powers:
        return True
    return {one.powers, other.powers} == {_ANGLE, _RADIAN}


def _without_variable(answer: str) -> str:
    """`x=1, x=2` as `1, 2`."""
    names = re.findall(r"(?:^|,)\s*(\\?[A-Za-z]+)\s*=", answer)
    if len(set(names)) != 1 or answer.count("=") != len(names):
        return answer
    return re.sub(r"(^|,)\s*\\?[A-Za-z]+\s*=\s*", r"\1 ", answer).strip()


def _with_names_as_tuple(answer: str, other: str) -> str:
    """`x=1, y=2` as `(1,2)`, in the order of the names, where the other answer is a tuple or a list without names."""
    parts = list_parts(answer)
    others = list_parts(other)
    if "=" in answer and "=" not in other and len(parts) > 1:
        named = dict(found.groups() for found in map(_NAMED.fullmatch, parts) if found)
        inner = len(others) if len(others) > 1 else len(list_parts(other[1:-1])) if other.startswith("(") else 0
        if len(named) == len(parts) == inner and not any("=" in value for value in named.values()):
            return f"({','.join(named[name] for name in sorted(named))})"
    if "=" in other and "=" not in answer and len(parts) > 1:
        named = dict(found.groups() for found in map(_NAMED.fullmatch, others) if found)
        if len(named) == len(others) == len(parts):
            return f"({','.join(parts)})"
    return answer


def list_parts(answer: str) -> list[str]:
    """
    Values of a list that has no brackets: parts between commas, semicolons, "and" and "or".

    Args:
        answer (`str`):
            An answer.

    Returns:
        `list[str]`: Its parts, in order; the answer alone if it is no list.
    """
    parts, depth, start = [], 0, 0
    for found in _BRACKETS.finditer(answer):
        sign = found[0].strip().lstrip("\\")
        if sign[:1] in "[({" and len(sign) == 1:
            depth += 1
        elif sign[:1] in "])}" and len(sign) == 1:
            depth -= 1
        elif depth == 0:
            parts.append(answer[start : found.start()].strip())
            start = found.end()
    return [part for part in (*parts, answer[start:].strip()) if part]


def _digits(number: re.Match) -> tuple[str, str, str]:
    """Sign, digits and decimals: Python refuses to make a number of 4,300 digits."""
    whole, decimals = (number[2] or "").replace(",", "").lstrip("0"), (number[3] or "").rstrip("0")
    return ("-" if number[1] == "-" and (whole or decimals) else ""), whole, decimals


def _same_choice(gold: str, given: str) -> bool | None:
    """Whether two answers are the same letters of a multiple choice, with or without the text of the option."""
    gold, given = (WHOLE_TEXT.sub(r"\1", text).strip() for text in (gold, given))
    listed = [bool(_LETTERS.fullmatch(text)) for text in (gold, given)]
    if any(listed) and all(
        is_list or _LETTERS_IN_A_ROW.fullmatch(text) for is_list, text in zip(listed, (gold, given), strict=True)
    ):
        return set(re.findall("[A-J]", gold)) == set(re.findall("[A-J]", given))
    (right, right_text), (letter, text) = _choice(gold), _choice(given)
    if right and not right_text and given in ("a", "b", "c", "d"):
        letter = given.upper()
    if right and letter and (right_text or text or right == letter):
        return right == letter
    if right and right_text and not letter:
        return True if compare_directly(right_text, given) else None
    return None


def is_same_option(gold: str, given: str) -> bool:
    """
    Whether the given answer is the letter of the option that a field states with its text (`A: 5`).

    Args:
        gold (`str`):
            The answer column as it stands, of which the text alone is the answer.
        given (`str`):
            The answer to check.

    Returns:
        `bool`: False also where the field is no option.
    """
    found = _LETTER_WITH_TEXT.fullmatch(gold.strip()[:LONGEST_ANSWER])
    return bool(found) and _choice(plain_answer(given)) == (found[1] or found[2], "")  # type: ignore[index]


def _choice(answer: str) -> tuple[str, str]:
    """Letter and text of an option; both empty if it is none."""
    alone = _LETTER.fullmatch(answer)
    if alone:
        return (alone[1] or alone[2]).upper(), ""
    found = _LETTER_WITH_TEXT.fullmatch(answer)
    if not found or _ANOTHER_LETTER.search(found[3]):
        return "", ""
    return found[1] or found[2], found[3]


def _different_bases(gold: str, given: str) -> bool:
    """Whether two numbers are written in different bases. A base that only one of them names is that of both."""
    right, found = based_number(gold), based_number(given)
    if right is None and found is None:
        return False
    if right is not None and found is not None:
        return right != found
    digits, plain = (right[0], given) if right is not None else (found[0], gold)  # type: ignore[index]
    number = _NUMBER.fullmatch(plain)
    return bool(number and plain and (number[2] or "").replace(",", "").lstrip("0") != digits.lstrip("0"))


def _same_amounts(right: Form, found: Form) -> bool | None:
    """Whether two numbers with or without units are the same amount."""
    values = exact_value(right.text), exact_value(found.text)
    if values[0] is None or values[1] is None:
        return None
    units = right.unit, found.unit
    if units[0] is not None and units[1] is not None:
        if units[0].powers != units[1].powers:
            return None
        if units[0].size != units[1].size:
            return values[0] * units[0].size == values[1] * units[1].size
    percents = [unit is not None and unit.powers == _PERCENT for unit in units]
    if percents[0] != percents[1] and _in_percent(values, percents[0]):
        return True
    if (percents[0] or percents[1]) and _ANGLE in (unit.powers for unit in units if unit is not None):
        return False
    return same_values(right.text, found.text)


def _in_percent(values: tuple[Fraction | None, Fraction | None], first: bool) -> bool:
    percent, plain = values if first else values[::-1]
    return percent is not None and plain is not None and percent == plain * 100


def _same_parts(gold: str, given: str) -> bool | None:
    r"""Whether two lists of numbers are the same in any order. `5, 5` is not `5`; `\pm 5` is two values."""
    sets = [text.startswith("\\{") and text.endswith("\\}") for text in (gold, given)]
    lists = [list_parts(text[2:-2] if is_set else text) for text, is_set in zip((gold, given), sets, strict=True)]
    if max(map(len, lists)) == 1 or any(_GROUPS_OF_DIGITS.search(text) for text in (gold, given)):
        return None
    values = [[exact_value(part) for part in parts] for parts in lists]
    if None not in values[0] and None not in values[1]:
        return set(values[0]) == set(values[1]) if any(sets) else Counter(values[0]) == Counter(values[1])
    if any(sets) or any(
        "\\cup" in part or "\\ldots" in part or _LONG_WORD.search(part) for part in lists[0] + lists[1]
    ):
        return None
    counts = [sum(2 if "\\pm" in part or "\\mp" in part else 1 for part in parts) for parts in lists]
    if counts[0] != counts[1]:
        return False
    plain = [Counter(part.replace(" ", "") for part in parts) for parts in lists]
    return plain[0] == plain[1] if set(plain[0]) == set(plain[1]) else None


def _differ_in_case(gold: str, given: str) -> bool:
    r"""Whether two formulas only differ in the case of their letters, which are then other symbols (`e` and `E`)."""
    if _LONG_WORD.search(gold) or _LONG_WORD.search(given):
        return False
    right, found = (set(_SYMBOL.findall(WHOLE_TEXT.sub("", text))) for text in (gold, given))
    return right != found and {name.casefold() for name in right} == {name.casefold() for name in found}


def _scaled(right: Form, found: Form) -> tuple[str, str]:
    """Two values in one unit."""
    units = right.unit, found.unit
    texts = right.text, found.text
    powers = [unit.powers if unit is not None else None for unit in units]
    if units[0] is not None and units[1] is not None and powers[0] == powers[1] and units[0].size != units[1].size:
        factor = units[1].size / units[0].size
        return texts[0], f"({texts[1]}) \\cdot \\frac{{{factor.numerator}}}{{{factor.denominator}}}"
    if _ANGLE in powers and powers[0] != powers[1]:
        other = texts[1] if powers[0] == _ANGLE else texts[0]
        if "\\pi" in other or "pi" in other or _RADIAN in powers:
            in_radians = [
                f"({text}) \\cdot \\frac{{\\pi}}{{180}}" if power == _ANGLE else text
                for text, power in zip(texts, powers, strict=True)
            ]
            return in_radians[0], in_radians[1]
    if _PERCENT in powers and powers[0] != powers[1]:
        marked = [f"{text}\\%" if power == _PERCENT else text for text, power in zip(texts, powers, strict=True)]
        return marked[0], marked[1]
    return texts


def _algebra(text: str) -> str:
    text = _TYPED_ROOT.sub(r"\\sqrt{\1}", _MONEY.sub("", text))
    return _TYPED.sub(lambda found: f"\\{found[1]} ".replace("infinity", "infty"), text)
