r"""
Whether an output gives the right answer, by Math-Verify.

What can be told without computer algebra is: equal strings, two numbers, words. The rest goes to Math-Verify, in a
process that is killed where an answer keeps it busy. Every output gets a verdict, also where grading failed.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ..traces import Marks, answer_of_completion, answer_of_field, final_boxes, find_reasoning
from ..traces.answers import find_boxes, unwrap_answer
from ..workers import Worker, WorkerDied


VERDICTS = ("correct", "wrong", "no answer", "unreadable", "timeout", "crash")

_NUMBER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.(\d+))?")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?)0*(\d+)")
_WORDS = re.compile(r"[A-Za-z]{3,}([ '-]+[A-Za-z]+)*")
_NAMED_WORDS = re.compile(r"[A-Za-z]{3,} ?= ?[A-Za-z]{3,}(, ?[A-Za-z]{3,} ?= ?[A-Za-z]{3,})*")
_TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol|mbox)"
_WHOLE_TEXT = re.compile(rf"{_TEXT_COMMAND}\s*\{{([^{{}}]*)\}}")
# One letter of a multiple choice, and several
_LETTER = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\(([A-Ja-j])\)|([A-J]))[.:)]?")
_LETTER_WITH_TEXT = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\(([A-J])\)|([A-J])[.:)])\s*(\S.*)", re.DOTALL)
_LETTERS = re.compile(r"(?:\([A-J]\)|[A-J])(?:\s*(?:,|;|&|and)\s*(?:\([A-J]\)|[A-J]))+")
_ANOTHER_LETTER = re.compile(r"\([A-J]\)|(?:\b(?:or|and)|,)\s*\(?[A-J]\b")
# A longer answer is text that no algebra reads
_LONGEST_ANSWER = 5000

# Spellings of the same, in the order in which they are replaced
_SPELLINGS = [
    (re.compile(r"\\(?:[dtc]|nice|s|x)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text)?color\s?\{[A-Za-z]{1,20}\}|\\underline(?![A-Za-z])"), ""),
    (re.compile(r"\\mathrm\s?\{([eid])\}"), r"\1"),
    (re.compile(r"\\([lr])brace(?![A-Za-z])"), lambda match: r"\{" if match[1] == "l" else r"\}"),
    (re.compile(r"^(-?\d{1,20})\s+(\d{1,20})\s?/\s?(\d{1,20})$"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"(?<![A-Za-z])[€£¥]\s?(?=\d)|(?<=\d)\s?[€£¥]"), ""),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\^\s?\{\s?\\circ\s?\}|\\degree(?![A-Za-z])|\^\s\\circ"), r"^\\circ"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle)(?![A-Za-z])\s?\.?"), ""),
    (re.compile(r"\\(?:quad|qquad)(?![A-Za-z])|~"), " "),
    (re.compile(r"\\leq(?:slant)?(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\ne(?![A-Za-z])"), r"\\neq"),
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


@dataclass(frozen=True)
class Verdict:
    """
    The grade of an output.

    Args:
        verdict (`str`):
            - `"correct"`, `"wrong"`
            - `"no answer"`: the output has no complete box and announces no answer.
            - `"unreadable"`: Math-Verify cannot read the answer (broken LaTeX).
            - `"timeout"`: comparing took too long.
            - `"crash"`: Math-Verify failed.
        answer (`str` or `None`):
            The answer that was found in the output.
        error (`str` or `None`):
            What Math-Verify failed with.
    """

    verdict: str
    answer: str | None = None
    error: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer was found to be right; an output that could not be graded counts as wrong."""
        return self.verdict == "correct"


def plain_answer(answer: str) -> str:
    r"""
    The normal form of an answer, in which answers are compared: without what only concerns its looks (dollars, a box,
    bold, `\text`, thin spaces, a final full stop), Unicode's signs as LaTeX, one spelling of the same command.

    Args:
        answer (`str`):
            LaTeX or text.

    Returns:
        `str`: The same answer, plainer.
    """
    answer = _latex(_unquoted(unwrap_answer(answer)))
    whole = _WHOLE_TEXT.fullmatch(answer)
    answer = whole[1] if whole else answer
    for spelling, replacement in _SPELLINGS:
        answer = spelling.sub(replacement, answer)
    answer = re.sub(r"\\[!,;: ]", "", answer).strip().rstrip(".,").removesuffix("\\\\").strip()
    scientific = _SCIENTIFIC.fullmatch(answer)
    if scientific:
        sign = "-" if scientific[2] == "-" else ""
        answer = f"{scientific[1]} \\times 10^{{{sign}{scientific[3]}}}"
    return " ".join(answer.replace("np.", "\\").split())


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


def quick_verdict(gold: str, given: str) -> bool | None:
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
    gold, given = plain_answer(gold), plain_answer(given)
    if gold == given:
        return True
    numbers = _NUMBER.fullmatch(gold), _NUMBER.fullmatch(given)
    if numbers[0] and numbers[1]:
        return _digits(numbers[0]) == _digits(numbers[1])
    chosen = _same_choice(gold, given)
    if chosen is not None:
        return chosen
    if _WORDS.fullmatch(gold):
        # Algebra would take a word for a product of letters, in which their order does not matter
        return gold.casefold() == given.casefold()
    if _NAMED_WORDS.fullmatch(gold) and _NAMED_WORDS.fullmatch(given):
        # Each says what it is for, so neither order nor repetition matters
        one, other = (set(text.casefold().replace(" ", "").split(",")) for text in (gold, given))
        return one == other
    return True if gold.replace(" ", "") == given.replace(" ", "") else None


def _digits(number: re.Match) -> tuple[str, str, str]:
    """Sign, digits and decimals: Python refuses to make a number of 4,300 digits."""
    whole, decimals = number[2].replace(",", "").lstrip("0"), (number[3] or "").rstrip("0")
    return ("-" if number[1] == "-" and (whole or decimals) else ""), whole, decimals


def _same_choice(gold: str, given: str) -> bool | None:
    """Whether two answers are the same letters of a multiple choice, with or without the text of the option."""
    gold, given = (_WHOLE_TEXT.sub(r"\1", text).strip() for text in (gold, given))
    if _LETTERS.fullmatch(gold) and _LETTERS.fullmatch(given):
        return set(re.findall("[A-J]", gold)) == set(re.findall("[A-J]", given))
    (right, right_text), (letter, text) = _choice(gold), _choice(given)
    if right and letter and (right_text or text or right == letter):
        return right == letter
    if right and right_text and not letter:
        return True if quick_verdict(right_text, given) else None
    return None


def _choice(answer: str) -> tuple[str, str]:
    """Letter and text of an option; both empty if it is none."""
    alone = _LETTER.fullmatch(answer)
    if alone:
        return (alone[1] or alone[2]).upper(), ""
    found = _LETTER_WITH_TEXT.fullmatch(answer)
    if not found or _ANOTHER_LETTER.search(found[3]):
        return "", ""
    return found[1] or found[2], found[3]


def _without_variable(answer: str) -> str:
    """`x=1, x=2` as `1, 2`."""
    names = re.findall(r"(?:^|,)\s*(\\?[A-Za-z]+)\s*=", answer)
    if len(set(names)) != 1 or answer.count("=") != len(names):
        return answer
    return re.sub(r"(^|,)\s*\\?[A-Za-z]+\s*=\s*", r"\1 ", answer).strip()


class Grader:
    r"""
    Grades outputs. Use it in a `with` statement: it may start a process.

    Args:
        seconds (`float`, *optional*, defaults to `20.0`):
            Time that one comparison may take before its process is killed and the verdict is `"timeout"`.
        marks ([`~trl_segment.traces.Marks`], *optional*):
            Marks of reasoning in the outputs, if they are none of the known ones.

    Examples:
    ```python
    >>> with Grader() as grader:
    ...     grader.grade(r"<think>...</think> so \boxed{\frac12}", "0.5").correct
    True
    ```
    """

    def __init__(self, seconds: float = 20.0, marks: Marks | None = None):
        self.seconds, self.marks = seconds, marks
        self._worker = Worker(["-m", "trl_segment.evaluation.math_worker"])

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exception) -> None:
        self._worker.stop()

    def grade(self, output: str, answer: str) -> Verdict:
        r"""
        Grade one output.

        The answer is what the response states, as attribution and training read it
        ([`~trl_segment.traces.extract_answer`]); of an output without response, the box in its reasoning.

        Args:
            output (`str`):
                Everything that a model wrote.
            answer (`str`):
                The right answer.

        Returns:
            [`Verdict`]: The grade.

        Raises:
            `ValueError`: If the right answer is empty.
        """
        gold = answer_of_field(answer)[0]
        if not gold:
            raise ValueError("The right answer is empty, so nothing can be compared with it. Fill the answer column.")
        found = find_reasoning(output, self.marks)
        given = answer_of_completion(output, found)
        if not given:
            return Verdict("no answer")
        verdict = self._compare(gold, given)
        if verdict.correct:
            return verdict
        response = output[found.response :] if found.closing is not None else output
        joined = final_boxes(response)
        if len(joined) > 1 and all(self._compare(gold, box).correct for box in joined):
            return Verdict("correct", given)  # the same answer in several forms
        boxes = list(dict.fromkeys(unwrap_answer(box.content) for box in find_boxes(response) if box.content))
        if len(boxes) > len(joined) and len(boxes) == gold.count(",") + 1:
            # Parts of the answer that words stand between
            together = self._compare(gold, ", ".join(boxes))
            return together if together.correct else verdict
        return verdict

    def grade_all(self, pairs: Iterable[tuple[str, str]]) -> list[Verdict]:
        """
        Grade several outputs.

        Args:
            pairs (`Iterable[tuple[str, str]]`):
                Outputs and right answers.

        Returns:
            `list[Verdict]`: In the same order.
        """
        return [self.grade(output, answer) for output, answer in pairs]

    def _compare(self, gold: str, given: str) -> Verdict:
        same = quick_verdict(gold, given)
        if same is None and "=" not in gold:
            same = quick_verdict(gold, _without_variable(plain_answer(given)))
        if same is not None:
            return Verdict("correct" if same else "wrong", given)
        if len(given) > _LONGEST_ANSWER:
            return Verdict("unreadable", given)
        try:
            result = self._worker.ask([plain_answer(gold), plain_answer(given)], self.seconds)
        except TimeoutError:
            return Verdict("timeout", given)
        except WorkerDied:
            return Verdict("crash", given, "the process of Math-Verify ended")
        return Verdict(result["verdict"], given, result.get("error"))
