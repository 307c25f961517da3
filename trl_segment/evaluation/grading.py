r"""
Whether an output gives the right answer, by Math-Verify.

What can be told without computer algebra is: equal strings, two numbers, words. The rest goes to Math-Verify, in a
process that is killed where an answer keeps it busy. Every output gets a verdict, also where grading failed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..traces import Marks, answer_of_completion, answer_of_field, final_boxes, find_reasoning
from ..traces.answers import find_boxes, labeled_parts, unwrap_answer
from ..workers import Worker, WorkerDied
from .comparison import compare_directly, forms_for_algebra, is_same_option, list_parts
from .normal_form import LONGEST_ANSWER, plain_answer
from .quantities import split_unit


# What stands behind a box up to the end of a formula or a sentence
_UNIT_BEHIND = re.compile(r"\$?(?:\\\))?([^.,;:\n]{1,40})")
_LONGEST_QUANTITY = 300

VERDICTS = ("correct", "wrong", "no answer", "unreadable", "timeout", "crash")


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


def _boxes(text: str) -> list[str]:
    return list(dict.fromkeys(unwrap_answer(box.content) for box in find_boxes(text) if box.content))


def _with_unit_behind(given: str, gold: str, response: str) -> str:
    r"""The given answer with the unit that stands behind its box (`\boxed{3}` cm), where the right answer has one."""
    if given == gold or max(len(given), len(gold)) > _LONGEST_QUANTITY:
        return given
    if split_unit(plain_answer(gold))[1] is None:
        return given
    boxes = find_boxes(response)
    last = next((box for box in reversed(boxes) if unwrap_answer(box.content) == given), None)
    if last is None or split_unit(plain_answer(given))[1] is not None:
        return given
    behind = _UNIT_BEHIND.match(response, last.end)
    together = given + (behind[1].replace("$", "") if behind else "")
    value, unit = split_unit(plain_answer(together))
    return together if unit is not None and unit.sure and value == plain_answer(given) else given


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
        response = output[found.response :] if found.closing is not None else output
        parts = labeled_parts(answer) if isinstance(answer, str) else []
        if parts:
            return self._compare_parts(parts, given, response)
        verdict = self._compare(gold, _with_unit_behind(given, gold, response))
        verdict = Verdict(verdict.verdict, given, verdict.error)
        if verdict.correct or is_same_option(answer, given):
            return Verdict("correct", given)
        joined = final_boxes(response)
        if len(joined) > 1 and all(self._compare(gold, box).correct for box in joined):
            return Verdict("correct", given)  # the same answer in several forms
        boxes = _boxes(response)
        if len(boxes) > len(joined) and len(boxes) == gold.count(",") + 1:
            # Parts of the answer that words stand between
            together = self._compare(gold, ", ".join(boxes))
            return together if together.correct else verdict
        return verdict

    def _compare_parts(self, parts: list[str], given: str, response: str) -> Verdict:
        """Compare labeled parts, whose order counts, with as many parts, boxes or values of the output."""
        ways = (labeled_parts(given), list_parts(given), _boxes(response), labeled_parts(response.strip()))
        for way in ways:
            if len(way) == len(parts):
                verdicts = [self._compare(gold, found) for gold, found in zip(parts, way, strict=True)]
                failed = next((verdict for verdict in verdicts if not verdict.correct), None)
                return Verdict(failed.verdict if failed else "correct", given, failed.error if failed else None)
        return Verdict("wrong", given)

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
        same = compare_directly(gold, given)
        if same is not None:
            return Verdict("correct" if same else "wrong", given)
        if len(given) > LONGEST_ANSWER:
            return Verdict("unreadable", given)
        try:
            result = self._worker.ask(list(forms_for_algebra(gold, given)), self.seconds)
        except TimeoutError:
            return Verdict("timeout", given)
        except WorkerDied:
            return Verdict("crash", given, "the process of Math-Verify ended")
        return Verdict(result["verdict"], given, result.get("error"))
