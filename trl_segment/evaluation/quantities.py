r"""
What an answer is worth: exact numbers, numbers in words, units.

Only what needs no computer algebra is read here. What is not sure is `None`, and left to Math-Verify.
"""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from ..traces.statements import ONES, TENS


# Longer numbers are compared digit by digit, or by Math-Verify
_MOST_DIGITS, _LARGEST_EXPONENT, _LONGEST_WORDS = 60, 400, 300

_DECIMAL = r"(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+"
_INTEGER = r"\d{1,60}"
_SIGN = r"[+-]?\s?"
_PLAIN = re.compile(rf"({_SIGN})({_DECIMAL})")
_REPEATING = re.compile(rf"({_SIGN})(\d*)\.(\d*)(?:\\overline\s?\{{(\d+)\}}|\((\d+)\))")
_POWER_OF_TEN = re.compile(rf"({_SIGN})(?:({_DECIMAL})\s?\\times\s?)?10\^\{{?([+-]?\d{{1,3}})\}}?")
_ARGUMENT = rf"(?:\{{\s?({_SIGN}{_INTEGER})\s?\}}|(\d))"
_FRACTION = re.compile(rf"({_SIGN})({_INTEGER})?\s?\\frac\s?{_ARGUMENT}\s?{_ARGUMENT}")
_SLASH = re.compile(rf"({_SIGN})({_INTEGER})\.?\s?/\s?({_INTEGER})")

_SCALES = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # fmt: skip
_NUMBER_WORDS = dict(zip(ONES, range(20), strict=True)) | dict(zip(TENS, range(20, 100, 10), strict=True))
_SCALED = re.compile(rf"(.*\d)\s?(?:\\text\s?\{{\s?)?({'|'.join(_SCALES)}|dozen)s?(?:\s?\}})?", re.IGNORECASE)

# Dimension, size in its smallest unit here, names. Names of one letter, and of money, are read as they are written.
_UNITS = """
length 1 m meter metre
length 1000 km kilometer kilometre
length 1/10 dm decimeter decimetre
length 1/100 cm centimeter centimetre
length 1/1000 mm millimeter millimetre
length 1/1000000000 nm nanometer nanometre
length 127/5000 in inch inche
length 381/1250 ft foot feet
length 1143/1250 yd yard
length 201168/125 mi mile
time 1 s sec second
time 1/1000 ms millisecond
time 60 min minute
time 3600 h hr hour
time 86400 day
time 604800 week
month 1 month
month 12 yr year
month 120 decade
month 1200 century centurie
mass 1 g gram
mass 1000 kg kilogram kilo
mass 1/1000 mg milligram
mass 1000000 ton tonne
pound 1 lb pound £
ounce 1 oz ounce
volume 1 L l liter litre
volume 1/1000 mL ml milliliter millilitre
gallon 1 gal gallon
gallon 1/4 qt quart
gallon 1/8 pt pint
dollar 1 dollar USD \\$
dollar 1/100 cent \\cent ¢
euro 1 euro EUR €
yen 1 yen ¥
rupee 1 rupee Rs ₹
angle 1 degree deg ^\\circ ^{\\circ}
radian 1 radian rad
celsius 1 ^\\circC ^{\\circ}C celsius
fahrenheit 1 ^\\circF ^{\\circ}F fahrenheit
percent 1 % \\% percent pct
newton 1 N newton
joule 1 J joule
joule 1000 kJ kilojoule
watt 1 W watt
watt 1000 kW kilowatt
volt 1 V volt
kelvin 1 K kelvin
hertz 1 Hz hertz
pascal 1 Pa pascal
mole 1 mol mole
electronvolt 1 eV
morning 1 am
afternoon 1 pm
"""


class Unit(NamedTuple):
    """
    A unit of measure.

    Args:
        powers (`frozenset[tuple[str, int]]`):
            Its dimensions and their exponents: those of km/h are `length` 1 and `time` -1.
        size (`Fraction`):
            How many of the dimensions' own units it is: km has 1,000.
        sure (`bool`):
            Whether it can be nothing else. A letter alone may also be a variable.
    """

    powers: frozenset[tuple[str, int]]
    size: Fraction
    sure: bool


def _table() -> dict[str, tuple[str, Fraction]]:
    table = {}
    for line in _UNITS.split("\n")[1:-1]:
        dimension, size, *names = line.split()
        for name in names:
            table[name] = (dimension, Fraction(size))
            if name.isalpha() and len(name) > 1:
                table[name.casefold()] = table[name + "s"] = table[name.casefold() + "s"] = table[name]
    return table


_NAMES = _table()
_LETTERS_OF_UNITS = "|".join(sorted(re.escape(name) for name in _NAMES if len(name) == 1 and name.isalpha()))
_WORDS_OF_UNITS = "|".join(
    re.escape(name) for name in sorted(_NAMES, key=len, reverse=True) if name.isalpha() and len(name) > 1
)
_SQUARE = r"(square|cubic|sq\.?|cu\.?) "
_ONE_UNIT = re.compile(
    rf"(?:{_SQUARE})?((?i:{_WORDS_OF_UNITS})|{_LETTERS_OF_UNITS})(?![A-Za-z_])(?:\s?\^\s?\{{?\s?(-?[1-9])\s?\}}?)?"
)
_JOINT = re.compile(r"\s?(/|\bper\b|\\cdot|\*)\s?|\s")
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h"}
_HALF_OF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)
_SPEED = re.compile(rf"\b(?:{'|'.join(_SPEEDS)})\b")
# Outside `\text` these may also be products of variables, as a letter may be one
_PRODUCTS_TOO = ("am", "pm", "mg", "ms", "mi", "pt", "Pa", "eV")
_MOST_UNIT, _LONGEST_QUANTITY = 60, 300
_ANY_UNIT = re.sub(r"\((?!\?)", "(?:", _ONE_UNIT.pattern)  # the same without groups
_TRAILING_UNIT = re.compile(rf"(?<![A-Za-z\\_]){_ANY_UNIT}(?:(?:{_JOINT.pattern})?{_ANY_UNIT}){{0,3}}\.?$")
_TRAILING_SIGN = re.compile(
    r"\s?(\^\s?(?:\\circ|\{\s?\\circ\s?\})\s?(?:[CF](?![A-Za-z]))?|\\?%|\\\$|€|£|¥|₹|¢|\\cent)\.?$"
)
_LEADING_SIGN = re.compile(r"([+-]?)\s?(\\\$|€|£|¥|₹|(?:USD|EUR|Rs\.?)(?![A-Za-z]))\s?(?=[\d.\\+-])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}")
_UNIT_FRACTION = re.compile(r"\\frac\s?\{([^{}\d]*)\}\s?\{([^{}\d]*)\}$")
_COMMA = re.compile(r",(?!\d{3}(?!\d))|;")


def exact_value(text: str) -> Fraction | None:
    r"""
    Value of a number that is written out: an integer, a decimal, a fraction, a mixed number, a repeating decimal
    (`0.\overline{3}`), a power of ten.

    Args:
        text (`str`):
            An answer in its normal form ([`~trl_segment.evaluation.normal_form.plain_answer`]).

    Returns:
        `Fraction` or `None`: The value; `None` if it is anything else, or longer than 60 digits.
    """
    if len(text) > 3 * _MOST_DIGITS:
        return None
    value = None
    if found := _PLAIN.fullmatch(text):
        value = _decimal(found[2])
    elif found := _REPEATING.fullmatch(text):
        whole, first, again = found[2] or "0", found[3], found[4] or found[5]
        if len(whole + first + again) <= _MOST_DIGITS:
            value = Fraction(
                int(whole + first + again) - int(whole + first), 10 ** len(first) * (10 ** len(again) - 1)
            )
    elif found := _POWER_OF_TEN.fullmatch(text):
        number, exponent = _decimal(found[2] or "1"), int(found[3])
        if number is not None and abs(exponent) <= _LARGEST_EXPONENT:
            value = number * Fraction(10) ** exponent
    elif found := _FRACTION.fullmatch(text):
        above, below = (int((found[a] or found[b]).replace(" ", "")) for a, b in ((3, 4), (5, 6)))
        if below and not (found[2] and (above < 0 or below < 0)):
            value = int(found[2] or "0") + Fraction(above, below)
    elif (found := _SLASH.fullmatch(text)) and int(found[3]):
        value = Fraction(int(found[2]), int(found[3]))
    if value is None:
        return None
    return -value if found[1].startswith("-") else value


def _decimal(text: str) -> Fraction | None:
    text = text.replace(",", "")
    return Fraction(text if text[-1] != "." else text[:-1]) if len(text) <= _MOST_DIGITS else None


def same_values(one: str, other: str) -> bool | None:
    r"""
    Whether two numbers that are written out are equal. A decimal of six and more decimals is equal to the fraction
    that it rounds (0.333333 and 1/3).

    Args:
        one (`str`):
            An answer in its normal form.
        other (`str`):
            Another.

    Returns:
        `bool` or `None`: `None` if one of them is no number that is written out.
    """
    values = exact_value(one), exact_value(other)
    if values[0] is None or values[1] is None:
        return None
    if values[0] == values[1]:
        return True
    for text, exact in ((one, values[1]), (other, values[0])):
        decimals = len(text.partition(".")[2])
        if _PLAIN.fullmatch(text) and decimals >= 6 and _never_ends(exact):
            return abs(values[0] - values[1]) * 2 <= Fraction(1, 10**decimals)
    return False


def _never_ends(value: Fraction) -> bool:
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below > 1


def number_in_words(text: str) -> str | None:
    r"""
    A number that stands there in words, in digits: "twenty-one", "two thirds", "five million", "5 million", "a dozen".

    Args:
        text (`str`):
            An answer in its normal form.

    Returns:
        `str` or `None`: Digits, or `\frac{2}{3}`; `None` if it is no such number.
    """
    scaled = _SCALED.fullmatch(text)
    if scaled:
        factor = {**_SCALES, "dozen": 12}[scaled[2].lower()]
        value = exact_value(scaled[1].strip())
        return f"({scaled[1].strip()}) \\cdot {factor}" if value is None else _digits(value * factor)
    if len(text) > _LONGEST_WORDS or not text.replace("-", "").replace(" ", "").isalpha():
        return None
    negative, words = False, text.casefold().replace("-", " ").split()
    if words[:1] in (["minus"], ["negative"]):
        negative, words = True, words[1:]
    if words[-1:] == ["dozen"]:
        words = [*(words[:-1] or ["one"]), "times", "twelve"]
    below = _PARTS.get(words[-1].removesuffix("s")) if words else None
    if below and len(words) > 1:
        above = _count(words[:-1])
        value = None if above is None else Fraction(above, below)
    elif words == ["half"]:
        value = Fraction(1, 2)
    elif "times" in words:
        above = _count(words[: words.index("times")])
        value = None if above is None else Fraction(above * 12)
    else:
        count = _count(words)
        value = None if count is None or (words[0] in ("a", "an") and len(words) == 1) else Fraction(count)
    return None if value is None else _digits(-value if negative else value)


def _count(words: list[str]) -> int | None:
    """`["two", "hundred", "and", "five"]` as 205."""
    total, group, last = 0, 0, 0
    for index, word in enumerate(words):
        if word in ("a", "an") and index == 0:
            group, last = 1, 1
        elif word == "and" and 0 < index < len(words) - 1 and last >= 100:
            continue
        elif word in _NUMBER_WORDS:
            number = _NUMBER_WORDS[word]
            # Only a smaller number of another place goes on: "twenty one", not "one two"
            if group % 100 and not (number < 10 and group % 100 >= 20 and group % 10 == 0):
                return None
            group, last = group + number, number
        elif word == "hundred" and 0 < group < 10:
            group, last = group * 100, 100
        elif word in _SCALES and group and (not total or (total % _SCALES[word] == 0 and total > _SCALES[word])):
            total, group, last = total + group * _SCALES[word], 0, 1000
        else:
            return None
    return total + group if words and (total or group or words == ["zero"]) else None


def _digits(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    if not _never_ends(value):
        decimals = max(_factors(value.denominator, 2), _factors(value.denominator, 5))
        digits = str(abs(value.numerator) * 10**decimals // value.denominator).zfill(decimals + 1)
        return f"{'-' if value < 0 else ''}{digits[:-decimals]}.{digits[-decimals:]}"
    return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _factors(number: int, prime: int) -> int:
    count = 0
    while number % prime == 0:
        number, count = number // prime, count + 1
    return count


def split_unit(answer: str) -> tuple[str, Unit | None]:
    r"""
    An answer's value and its unit.

    Args:
        answer (`str`):
            An answer in its normal form, such as `15\mbox{ cm}^2`, `60 km/h`, `\$5` or `90^\circ`.

    Returns:
        `tuple[str, Unit | None]`: The value and the unit; the answer as it is and `None` if there is no unit that is
        known. Lists are left as they are.
    """
    if _COMMA.search(answer) or len(answer) > _LONGEST_QUANTITY:
        return answer, None
    money = _LEADING_SIGN.match(answer)
    if money:
        rest = money[1] + answer[money.end() :]
        value, unit = split_unit(rest)
        sign = _unit_of_name(money[2].rstrip("."))
        # `\$5\text{ dollars}`, `\$5 \text{ million}`; another unit behind it (dollars per hour) changes what it is
        return (value if unit is None or unit.powers == sign.powers else rest), _joined(sign, unit)
    signed = _TRAILING_SIGN.search(answer)
    if signed and answer[: signed.start()].strip():
        return answer[: signed.start()].strip(), _unit_of_name(signed[1].replace(" ", ""))
    flat = " ".join(_TEXT.sub(r" \1 ", answer).replace("~", " ").split())
    flat = _HALF_OF_DAY.sub(r"\1m", flat)
    flat = _SPEED.sub(lambda found: _SPEEDS[found[0]], flat)
    fraction = _UNIT_FRACTION.search(flat)
    flat = flat[: fraction.start()] + f"{fraction[1].strip()}/{fraction[2].strip()}" if fraction else flat
    tail = flat[-_MOST_UNIT:]
    found = _TRAILING_UNIT.search(tail)
    unit = _unit(found[0].rstrip(".")) if found else None
    if found is None or unit is None:
        return answer, None
    # Text stands for itself; a letter in a formula may be a variable, and does so behind another letter
    unit = unit._replace(sure=unit.sure or not answer.endswith(found[0]))
    value = flat[: len(flat) - len(tail) + found.start()].strip()
    if not re.search(r"[\d})A-Za-z]$" if unit.sure else r"[\d})]$", value):
        return answer, None
    return value, unit


def _unit_of_name(name: str) -> Unit:
    dimension, size = _NAMES[name]
    return Unit(frozenset({(dimension, 1)}), size, True)


def _joined(money: Unit, other: Unit | None) -> Unit:
    if other is None or other.powers == money.powers:
        return money
    return Unit(money.powers | other.powers, money.size * other.size, True)


def _unit(text: str) -> Unit | None:
    powers: Counter[str] = Counter()
    size, sign, place, sure = Fraction(1), 1, 0, False
    while place < len(text):
        found = _ONE_UNIT.match(text, place)
        if not found:
            return None
        dimension, own = _NAMES[found[2]] if found[2] in _NAMES else _NAMES[found[2].casefold()]
        exponent = int(found[3] or {"s": 2, "c": 3}.get((found[1] or "")[:1], 1)) * sign
        sure = sure or (len(found[2]) > 1 and found[2] not in _PRODUCTS_TOO)
        if dimension == "volume":  # liters, of which a cubic meter has 1,000
            dimension, own, times = "length", own / 1000, 3
        else:
            times = 1
        powers[dimension] += exponent * times
        size *= own**exponent
        joint = _JOINT.match(text, found.end())
        place = joint.end() if joint else found.end()
        sign = -1 if joint and joint[1] in ("/", "per") else 1
        if not joint and place < len(text):
            return None
    return Unit(frozenset((name, power) for name, power in powers.items() if power), size, sure)
