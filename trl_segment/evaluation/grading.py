r"""
Whether an output gives the right answer, by Math-Verify.

What can be told without computer algebra is: equal strings, two numbers, words. The rest goes to Math-Verify, in a
process that is killed where an answer keeps it busy. Every output gets a verdict, also where grading failed.
"""

import json
import re
import select
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from ..traces.answers import extract_answer


VERDICTS = ("correct", "wrong", "no answer", "unreadable", "timeout", "crash")

_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?\d+)")
_WORDS = re.compile(r"[A-Za-z]{3,}([ '-]+[A-Za-z]+)*")
_NAMED_WORDS = re.compile(r"[A-Za-z]{3,} ?= ?[A-Za-z]{3,}(, ?[A-Za-z]{3,} ?= ?[A-Za-z]{3,})*")


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
    An answer without what only concerns its looks: math delimiters, `\text`, thin spaces, a final full stop.

    Args:
        answer (`str`):
            LaTeX or text.

    Returns:
        `str`: The same answer, plainer.
    """
    answer = answer.strip()
    while len(answer) > 1 and answer[0] == answer[-1] == "$":
        answer = answer[1:-1].strip()
    answer = re.sub(r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$", lambda m: m[1] or m[2] or "", answer, flags=re.DOTALL).strip()
    whole = re.fullmatch(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}", answer)
    answer = whole[1] if whole else answer
    answer = re.sub(r"\\[!,;: ]", "", answer).rstrip(".")
    scientific = _SCIENTIFIC.fullmatch(answer)
    if scientific:
        answer = f"{scientific[1]} \\times 10^{{{int(scientific[2])}}}"
    return " ".join(answer.replace("np.", "\\").split())


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
    if _NUMBER.fullmatch(gold) and _NUMBER.fullmatch(given):
        return Fraction(gold.replace(",", "")) == Fraction(given.replace(",", ""))
    if _WORDS.fullmatch(gold):
        # Algebra would take a word for a product of letters, in which their order does not matter
        return gold.casefold() == given.casefold()
    if _NAMED_WORDS.fullmatch(gold) and _NAMED_WORDS.fullmatch(given):
        # Each says what it is for, so neither order nor repetition matters
        one, other = (set(text.casefold().replace(" ", "").split(",")) for text in (gold, given))
        return one == other
    return None


class Grader:
    r"""
    Grades outputs. Use it in a `with` statement: it may start a process.

    Args:
        seconds (`float`, *optional*, defaults to `20.0`):
            Time that one comparison may take before its process is killed and the verdict is `"timeout"`.

    Examples:
    ```python
    >>> with Grader() as grader:
    ...     grader.grade(r"<think>...</think> so \boxed{\frac12}", "0.5").correct
    True
    ```
    """

    def __init__(self, seconds: float = 20.0):
        self.seconds = seconds
        self._process = None

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exception) -> None:
        self._stop()

    def grade(self, output: str, answer: str) -> Verdict:
        r"""
        Grade one output.

        The answer is the last complete `\boxed{}` behind `</think>` (anywhere, where the output has no `</think>`),
        else what follows `####`, else what Math-Verify finds announced as the final answer.

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
        if not answer.strip():
            raise ValueError("The right answer is empty, so nothing can be compared with it. Fill the answer column.")
        response = output.rpartition("</think>")[2]
        given = extract_answer(response)
        if given is not None:
            if not given:
                return Verdict("no answer")
            same = quick_verdict(answer, given)
            if same is not None:
                return Verdict("correct" if same else "wrong", given)
        elif "answer" not in response.lower():
            return Verdict("no answer")
        request = [plain_answer(answer), None if given is None else plain_answer(given), response[-2000:]]
        return self._ask(request, given)

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

    def _start(self):
        command = [sys.executable, "-m", "trl_segment.evaluation.math_worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        # Loading the algebra takes seconds on a busy machine, and is not the answer's fault
        if self._process.stdout.readline() != "ready\n":
            raise ImportError(
                "Answers are compared with Math-Verify, which does not start. Install it: pip install math-verify"
            )

    def _stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _ask(self, request, given):
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], self.seconds)
            line = self._process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line is None:
            self._stop()
            return Verdict("timeout", given)
        if not line:
            self._stop()
            return Verdict("crash", given, "the process of Math-Verify ended")
        result = json.loads(line)
        return Verdict(result["verdict"], given if given is not None else result["answer"], result.get("error"))
