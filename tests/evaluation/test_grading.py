"""Verdicts: against the published grading of real outputs, and by hand."""

import pytest
from helpers import real_rows

from trl_segment.evaluation import Grader
from trl_segment.evaluation.comparison import compare_directly
from trl_segment.traces import Marks


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
        # Forms that people report of math graders
        ("The answer is .5.", "0.5", "correct"),
        ("The answer is .5.", "5", "wrong"),
        (r"\boxed{2 1/2}", r"\frac{5}{2}", "correct"),
        (r"\boxed{€5}", "5", "correct"),
        (r"\boxed{\nicefrac{1}{2}}", "0.5", "correct"),
        (r"\boxed{\textcolor{red}{5}}", "5", "correct"),
        (r"\boxed{\underline{5}}", "5", "correct"),
        (r"\boxed{\mathrm{e}^2}", "e^2", "correct"),
        (r"\boxed{\lbrace 1,2\rbrace}", r"\{1,2\}", "correct"),
        (r'\boxed{"yes"}', "yes", "correct"),
        (r"\boxed{5,}", "5", "correct"),
        (r"\boxed\sqrt[3]{8}", "2", "correct"),
        ("The answer is **5**.", "5", "correct"),
        ("Final Answer: **73**", "73", "correct"),
        (r"$x=\boxed{1}$ or $x=\boxed{2}$", "1, 2", "correct"),
        (r"$\boxed{2}$ and $\boxed{1}$", "1, 2", "correct"),
        ("The answers are $x=1$ and $x=2$.", "1, 2", "correct"),
        (r"\boxed{x=1}, \boxed{y=2}", "x=1, y=2", "correct"),
        (r"\boxed{1/2} or \boxed{0.5}", "0.5", "correct"),
        (r"\boxed{4} or \boxed{5}", "5", "wrong"),
        (r"\boxed{1728}", "1331, 1728", "wrong"),
        ("(a) $\\boxed{1}$.\n\n(b) $\\boxed{2}$.", "1, 2", "correct"),
        ("(a) $\\boxed{1}$.\n\n(b) $\\boxed{3}$.", "1, 2", "wrong"),
        ("(a) $\\boxed{1}$.\n\n(b) $\\boxed{2}$.", "1", "wrong"),
        (r"The answer is \boxed{5}. As asked, it is in \boxed{}.", "5", "correct"),
        (r"The answer is $\boxed 5$.", "5", "correct"),
        (r"\fbox{5}", "5", "correct"),
        (r"\boxed{5}</think>", "5", "correct"),
        (r"<think>a</think>\boxed{5}</think>", "5", "correct"),
        (r"[THINK]\boxed{3}[/THINK] \boxed{4}", "4", "correct"),
        (r"[THINK]\boxed{4}[/THINK] I do not know.", "4", "no answer"),
        ("5 apples: the answer is 5 apples.", "5", "correct"),
        (r"\boxed{5}", "We add.\n#### 5", "correct"),
        (r"\boxed{\text{(A) } 12}", "A", "correct"),
        (r"\boxed{D. 12}", "D", "correct"),
        (r"\boxed{\textbf{(C)}~7}", "C", "correct"),
        ("Answer: **C) 7**", "(C)", "correct"),
        (r"\boxed{A}", "(A) 12", "correct"),
        (r"\boxed{12}", "(A) 12", "correct"),
        (r"\boxed{B. A}", "A", "wrong"),
        (r"\boxed{A or B}", "A", "wrong"),
        (r"\boxed{(A), (B)}", "A", "wrong"),
        (r"\boxed{C, A}", "A, C", "correct"),
        # The sign and the command that it stands for
        ("\\boxed{90°}", r"90^\circ", "correct"),
        (r"\boxed{90\degree}", r"90^{\circ}", "correct"),
        ("\\boxed{2√3}", r"2\sqrt{3}", "correct"),
        ("\\boxed{√(x+1)}", r"\sqrt{x+1}", "correct"),
        ("\\boxed{∛2}", r"\sqrt[3]{2}", "correct"),
        ("\\boxed{√3/2}", r"\frac{\sqrt{3}}{2}", "correct"),
        ("\\boxed{½}", r"\frac{1}{2}", "correct"),
        ("\\boxed{2½}", r"\frac{5}{2}", "correct"),
        ("\\boxed{x² + 10⁻³}", "x^2 + 10^{-3}", "correct"),
        ("\\boxed{x₁₂}", "x_{12}", "correct"),
        ("\\boxed{2π}", r"2\pi", "correct"),
        ("\\boxed{(−∞, 3]}", r"(-\infty, 3]", "correct"),
        ("\\boxed{3 × 10⁸}", r"3 \times 10^8", "correct"),
        ("\\boxed{５}", "5", "correct"),
        (r"\boxed{\varnothing}", r"\emptyset", "correct"),
        ("\\boxed{∅}", r"\emptyset", "correct"),
        (r"\boxed{1{,}000}", "1000", "correct"),
        (r"\boxed{1\,000}", "1000", "correct"),
        ("\\boxed{2√3}", r"3\sqrt{2}", "wrong"),
        # Python makes no number of 4,300 digits
        (rf"\boxed{{{'9' * 5000}}}", "9" * 5000, "correct"),
        (rf"\boxed{{{'9' * 5000}.0}}", "9" * 5000, "correct"),
        (rf"\boxed{{{'9' * 4999}8}}", "9" * 5000, "wrong"),
        (rf"\boxed{{x + {'9' * 6000}}}", "5", "unreadable"),
        ("\\boxed{\ud800}", "5", "wrong"),
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
    assert compare_directly(gold, "beta = onyx, alpha=ruby") is True
    assert compare_directly(gold, "alpha=onyx, beta=ruby") is False
    assert compare_directly("x=5, y=3", "y=3, x=5") is True


def test_grading_goes_on_after_a_killed_comparison():
    with Grader(seconds=1) as grader:
        assert grader.grade(r"\boxed{9^{9^{9^9}}}", "3").verdict == "timeout"
        assert grader.grade(r"\boxed{\frac12}", r"\frac{2}{4}").verdict == "correct"


def test_a_dead_process_is_replaced_and_a_crash_is_a_verdict():
    with Grader() as grader:
        assert grader.grade(r"\boxed{x+x}", "2x").correct
        grader._worker.process.kill()
        assert grader.grade(r"\boxed{y+y}", "2y").correct
        # A process that dies of an answer, again and again
        grader._worker.command = ["-c", "print('\"ready\"', flush=True); input()"]
        grader._worker.stop()
        verdict = grader.grade(r"\boxed{x+x}", "2x")
        assert (verdict.verdict, verdict.error) == ("crash", "the process of Math-Verify ended")
        # One that writes half an answer
        grader._worker.command = ["-c", "print('\"ready\"', flush=True); input(); print('{', end='')"]
        assert grader.grade(r"\boxed{x+x}", "2x").verdict == "crash"


def test_marks_of_the_user_are_known_to_the_grader():
    output = r"<<plan>>\boxed{3}<</plan>> I do not know."
    with Grader(marks=Marks("<<plan>>", "<</plan>>")) as grader:
        assert grader.grade(output, "3").verdict == "no answer"


def test_an_empty_right_answer_is_refused(grader):
    with pytest.raises(ValueError, match="The right answer is empty"):
        grader.grade(r"\boxed{5}", " ")
