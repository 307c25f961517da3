"""Verdicts: against the published grading of real outputs, and by hand."""

import pytest
from helpers import real_rows

from trl_segment.evaluation import Grader
from trl_segment.evaluation.grading import quick_verdict


@pytest.fixture(scope="module")
def grader():
    with Grader(seconds=8) as grader:
        yield grader


@pytest.mark.real_model
def test_agrees_with_the_published_grading_of_46_outputs(grader):
    rows = real_rows()
    assert len(rows) == 46
    assert {r["id"]: grader.grade(r["solution"], r["answer"]).correct for r in rows} == {
        r["id"]: r["correct"] for r in rows
    }


@pytest.mark.parametrize(
    ("output", "answer", "verdict"),
    [
        (r"\boxed{\frac12}", "0.5", "correct"),
        (r"\boxed{1,234}", "1234.0", "correct"),
        (r"\boxed{025}", "25", "correct"),
        (r"\boxed{1235}", "1234", "wrong"),
        (r"\boxed{4.5\times10^{33}}", "4.5e33", "correct"),
        (r"\boxed{\arcsin(10/13)}", "np.arcsin(10/13)", "correct"),
        (r"\boxed{\text{evelyn}}", r"\text{Evelyn}", "correct"),
        (r"\boxed{xony}", "onyx", "wrong"),
        (r"\boxed{\text{beta = onyx, alpha=ruby}}", r"\text{alpha=ruby, beta=onyx}", "correct"),
        (r"\boxed{alpha=ruby, beta=onyx, beta=onyx}", r"\text{alpha=ruby, beta=onyx}", "correct"),
        (r"\boxed{alpha=ruby, beta=onyx, beta=jade}", r"\text{alpha=ruby, beta=onyx}", "wrong"),
        (r"\boxed{alpha=onyx, beta=ruby}", r"\text{alpha=ruby, beta=onyx}", "wrong"),
        (r"\boxed{alpha=ruby}", r"\text{alpha=ruby, beta=onyx}", "wrong"),
        (r"\boxed{alpha=bury}", r"\text{alpha=ruby}", "wrong"),
        (r"\boxed{(4,5,7),(1,8,19),(2,7,13)}", "$(1,8,19), (2,7,13), (4,5,7)$", "correct"),
        (r"\boxed{\left(3,\pi/2\right)}", r"\left( 3, \frac{\pi}{2} \right)", "correct"),
        (r"\boxed{90}", r"90^\circ", "correct"),
        (r"\boxed{5} no, \boxed{6}", "6", "correct"),
        (r"\boxed{6} no, \boxed{5}", "6", "wrong"),
        # What stands in the reasoning alone was not given as the answer
        (r"<think>\boxed{6}</think> I do not know.", "6", "no answer"),
        (r"<think>\boxed{5}</think> \boxed{6}", "6", "correct"),
        ("The final answer is $5$.", "5", "correct"),
        ("I counted 3, then 5", "5", "no answer"),
        ("", "5", "no answer"),
        (r"\boxed{}", "5", "no answer"),
        # Broken LaTeX
        (r"\boxed{\frac{1}{", "0.5", "no answer"),
        (r"\boxed{9^{9^{9^9}}}", "3", "timeout"),
    ],
)
def test_verdicts(grader, output, answer, verdict):
    assert grader.grade(output, answer).verdict == verdict


def test_named_words_need_no_algebra():
    """Math-Verify says the same of them, only slowly."""
    gold = r"\text{alpha=ruby, beta=onyx}"
    assert quick_verdict(gold, "beta = onyx, alpha=ruby") is True
    assert quick_verdict(gold, "alpha=onyx, beta=ruby") is False
    assert quick_verdict("x=5, y=3", "y=3, x=5") is None


def test_grading_goes_on_after_a_killed_comparison():
    with Grader(seconds=1) as grader:
        assert grader.grade(r"\boxed{9^{9^{9^9}}}", "3").verdict == "timeout"
        assert grader.grade(r"\boxed{\frac12}", r"\frac{2}{4}").verdict == "correct"


def test_an_empty_right_answer_is_refused(grader):
    with pytest.raises(ValueError, match="The right answer is empty"):
        grader.grade(r"\boxed{5}", " ")
