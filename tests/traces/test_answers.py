import datetime
import re
from decimal import Decimal

import numpy as np
import pytest
from helpers import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.traces import answer_of_field, attributed_sequence, build_trace, extract_answer, extract_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{27}.", "27"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{A, B}} and more} text", r"\text{A, B}"),
        (r"\boxed{a_{b_{c}}^{d}} x", "a_{b_{c}}^{d}"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{1} and then \boxed{2", "1"),
        (r"\boxed{1} and then \boxed{\frac{2}{3}", "1"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{}", r"\{"),
        (r"\boxed{x \} y}", r"x \} y"),
        (r"\boxed{a\\} b}", r"a\\"),
        ("\\boxed{  -1\n}", "-1"),
        (r"\boxed {5}", "5"),
        (r"$$\boxed{x=1}$$", "x=1"),
        (r"\boxed{5}, so not \boxed{}", "5"),
        (r"\boxed 5.", "5"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed\sqrt[3]{2}", r"\sqrt[3]{2}"),
        (r"\boxed .5", ".5"),
        (r"So $\boxed{5}$. (I used the form \boxed{your answer}.)", "5"),
        (r"\boxed{5}, put into \boxed{...} as asked", "5"),
        (r"\boxed{5} and not \boxed{\ }", "5"),
        (r"\boxed{\text{final answer}}", ""),
        (r"\fbox{7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{x = \boxed{3}}", r"x = \boxed{3}"),
        (r"\boxed{1 + \boxed{2}", "2"),
        (r"\boxed{}", ""),
        (r"\boxed{   }", ""),
        ("\\boxed{\n\\begin{matrix}1\\\\2\\end{matrix}\n}", "\\begin{matrix}1\\\\2\\end{matrix}"),
    ],
)
def test_last_complete_box_counts(text, answer):
    assert extract_boxed(text) == answer
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", ["", "42", r"\boxed", r"\boxed{", r"\boxed{\}", r"\boxed.", r"boxed{5}", r"\box{5}"])
def test_no_complete_box_is_none(text):
    assert extract_boxed(text) is None
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("6 x 7\n#### 42", "42"),
        ("6 x 7\n####  1,000 \t\nmore", "1,000"),
        ("#### 1\n#### 2\n", "2"),
        ("a\r\n#### 42\r\nb", "42"),
        ("####42", "42"),
        ("#### \\boxed{7} or 8", "7"),
        ("####", ""),
    ],
)
def test_hashes_count_where_there_is_no_box(text, answer):
    assert extract_answer(text) == answer


def test_hashes_inside_a_line_are_no_answer():
    assert extract_answer("see #### 42") is None


@given(
    st.recursive(
        st.sampled_from(["", "1", "x", r"\frac", r"\{", r"\}", r"\\", " "]),
        lambda inner: st.lists(inner, max_size=4).map(lambda parts: "{" + "".join(parts) + "}"),
        max_leaves=12,
    ),
    st.text(alphabet="ab{}\\ \n", max_size=10),
)
def test_any_balanced_content_comes_back(content, tail):
    """Content made so that its braces balance; what follows the box may have any braces."""
    assert extract_boxed("\\boxed{1} \\boxed{" + content + "}" + tail) == (content.strip() or "1")


# One answer in the forms that models state it in, `VALUE` standing for it
STATEMENTS = [
    r"So it is \boxed{VALUE}.",
    r"$\boxed VALUE$",
    r"\fbox{VALUE}",
    "We add.\n#### VALUE",
    "#### VALUE\n",
    "The answer is VALUE.",
    "The answer is $VALUE$. I hope it is correct.",
    r"The final answer to part (a) is \(VALUE\).",
    r"Hence the answer is \[ VALUE \]",
    "The answer is **VALUE**.",
    "**The answer is VALUE.**",
    "**Answer:** VALUE",
    "Final Answer: **VALUE**",
    "**Final Answer**\n\nVALUE",
    "### Answer\n\n$VALUE$",
    "Ans: VALUE",
    "ANSWER = VALUE",
    "<answer>VALUE</answer>",
    "The answer is VALUE, because we add.",
    "The answer is VALUE.<|im_end|>",
    "So there are **VALUE** of them.",
    "答案是VALUE。",
    r"The answer is VALUE. As asked, it is in \boxed{}.",
    "The answer is 8. No, the answer is VALUE.",
    "The answer must be VALUE.",
    "The answer would be $VALUE$.",
    "The answer comes out to VALUE.",
    "The answer is found to be VALUE.",
    "The answer is exactly VALUE.",
    "The answer is the number VALUE.",
]


@pytest.mark.parametrize("value", ["5", ".5", "-3", "1,000", "3.14", "1/2", "27"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_form_of_a_statement_is_read(statement, value):
    assert extract_answer(statement.replace("VALUE", value)) == value
    trace = build_trace(
        {"prompt": "p", "completion": "<think>\\boxed{7}, no</think>" + statement.replace("VALUE", value)}
    )
    assert trace.answer == value, "the response counts before the reasoning"


@pytest.mark.parametrize(
    "text",
    [
        "I counted 3, then 5",
        "We check our answer: 5 + 2 = 7, as it should be.",
        "The answer is not 5.",
        "The answer is wrong.",
        "The answer is as follows.",
        "I do not know the answer.",
        "**Step 1**\n\nAdd.",
        "#### Step 2\nWe add.",
        "Put your final answer in a box.",
        "There are **5** pears and **3** apples.",
    ],
)
def test_what_states_no_answer_is_none(text):
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"$x=\boxed{1}$ or $x=\boxed{2}$", "1, 2"),
        (r"\boxed{x=1}, \boxed{y=2}", "x=1, y=2"),
        (r"\boxed{1},\boxed{2}, and \boxed{3}", "1, 2, 3"),
        (r"\boxed{3}\text{ or }\boxed{4}", "3, 4"),
        (r"\boxed{1} \quad \text{and} \quad \boxed{2}", "1, 2"),
        (r"\boxed{5} and \boxed{5}", "5"),
        (r"\boxed{6} no, \boxed{5}", "5"),
        ("\\boxed{6}\n\n\\boxed{5}", "5"),
        ("the answer is $x=1$ and $x=2$.", "x=1, x=2"),
        ("the answers are $x=1$ and $x=2$.", "x=1, x=2"),
    ],
)
def test_boxes_that_are_joined_are_one_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("response", "answer"), [("", "5"), ("  \n", "5"), ("I do not know.", None)])
def test_the_reasoning_counts_only_where_there_is_no_response(response, answer):
    trace = build_trace({"prompt": "p", "completion": f"<think>a\n\nWait, \\boxed{{5}}</think>{response}"})
    assert trace.answer == answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("Two and three are <<2+3=5>>5 pears.\nSo there are 5 pears.\n#### 5", "5"),
        (r"We add. The final answer is $\boxed{5}$.", "5"),
        (r"\boxed{5}", "5"),
        (r"\boxed{5}.", "5"),
        (r"$\boxed{5}$", "5"),
        ("$5$", "5"),
        ("$$5$$", "5"),
        (r"\(5\)", "5"),
        (r"\[5\]", "5"),
        ("**5**", "5"),
        ("<answer>5</answer>", "5"),
        ("The answer is 5.", "5"),
        ("We add.\n\nThe answer is **5**.", "5"),
        ("We add.\n\nThere are **5** pears.", "5"),
        (np.int64(5), "5"),
        (np.array(5), "5"),
        (np.array([5]), "5"),
        (np.array([1, 2]), "1, 2"),
        (Decimal("0.5"), "0.5"),
        ({"value": "5", "aliases": ["five"]}, "5"),
        ({"text": ["5"], "answer_start": None}, "5"),
        ({"other": None, "result": 5}, "5"),
        (["$5$"], "5"),
        ("<think>the answer is 4</think>\n\n5", "5"),
        (r"<think>\boxed{4}</think>5", "5"),
        ("So there are <<2+3=5>>5 pears. #### 5", "5"),
        (r"$\text{The answer is } 5$", "5"),
        (np.float32(0.1), "0.1"),
        (np.array([0.1, 27.0], dtype=np.float32), "0.1, 27"),
        # Text of a list, a struct or a quoted value
        ("['5']", "5"),
        ('["5"]', "5"),
        ("[5]", "5"),
        ("('5',)", "5"),
        ('["5", "6"]', "5, 6"),
        ('{"answer": 5}', "5"),
        ("{'answer': '5'}", "5"),
        ('{"final_answer": "5", "steps": "We add."}', "5"),
        ('"5"', "5"),
        ("`5`", "5"),
        # A label, a conclusion, an option
        ("A: 5", "5"),
        ("Q: How many? A: 5", "5"),
        ("Answer: C", "C"),
        ("Ans. 5", "5"),
        ("Result: 5", "5"),
        ("Thus, $x = 5$.", "x = 5"),
        ("Hence, the value of $x$ is $5$.", "5"),
        ("The correct option is (B).", "(B)"),
        ("Hence, option C is correct.", "C"),
        ("答案：5", "5"),
        ("= 5", "5"),
        ("5.", "5"),
        ("5<|im_end|>", "5"),
        ("#### 5\n\n#### Notes", "5"),
        ("#### 5\n\n#### Notes\nWe added.", "5"),
        # Money is no formula
        ("The answer is $5 and not $6.", "$5"),
        ("The answer is $20 - $5 = $15.", "$15"),
        ("Answer: $5 and $6, respectively.", "$5 and $6"),
        # Labeled parts, in order
        ("(a) 5\n(b) 6", "5, 6"),
        ("(a) $5$; (b) $6$", "5, 6"),
        ("a) 5\nb) 6", "5, 6"),
        ("(i) 5 (ii) 6 (iii) 7", "5, 6, 7"),
        ("Part (a): 5\nPart (b): 6", "5, 6"),
        ("1. 5\n2. 6", "5, 6"),
        ("x=1\ny=2", "x=1, y=2"),
        # What belongs to a box
        (r"-\boxed{5}", "-5"),
        (r"$-2\boxed{\sqrt{3}}$", r"-2\sqrt{3}"),
        (r"$\boxed{52}_8$", "52_8"),
        # Nothing is taken off where that is not sure
        ("['5' '6']", "['5' '6']"),
        ("[5, 6]", "[5, 6]"),
        ("[2,5)", "[2,5)"),
        ("{1,2}", "{1,2}"),
        (r"\{5\}", r"\{5\}"),
        ("B: 5", "B: 5"),
        ("1.5 2.6", "1.5 2.6"),
        ("1: 2: 3", "1: 2: 3"),
        ("f'(x)", "f'(x)"),
        ("None", "None"),
        ("(a)", "(a)"),
        ("Solution: We add the two numbers that we know", "Solution: We add the two numbers that we know"),
        ("$1$, $2$", "$1$, $2$"),
        (r"\$18.90", r"\$18.90"),
        ("$(1,2), (3,4)$", "(1,2), (3,4)"),
        (r"\text{Evelyn}", r"\text{Evelyn}"),
        ("D. 12", "D. 12"),
        ("\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}", r"\begin{pmatrix} 1\\ 2 \end{pmatrix}"),
    ],
)
def test_an_answer_column_is_reduced_to_the_answer(value, answer):
    assert answer_of_field(value)[:2] == (answer, None)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("We add.\nIt is five.", "the answer has 2 lines"),
        ({"a": 1, "b": 2}, r"the answer is a struct \(a, b\)"),
        ({}, r"the answer is a struct \(nothing\)"),
        (b"5", "the answer is bytes"),
        ("{'a': 1, 'b': 2}", r"the answer is a struct \(a, b\)"),
        ("proof", "the answer is 'proof', which stands for a missing one"),
        ("nan", "the answer is 'nan', which stands for a missing one"),
        (r"\boxed{5", "the answer has a box that is not closed"),
        ("5\n\n6", "the answer has 2 lines"),
        ([[1, 2], [3, 4]], "the answer is a table"),
        (np.zeros((2, 2)), "the answer is a table"),
    ],
)
def test_a_column_that_is_no_answer_is_named_and_not_attributed(value, problem):
    trace = build_trace({"prompt": "p", "completion": "<think>a\n\nWait, b</think>\\boxed{5}", "answer": value})
    assert trace.problem is not None and re.match(problem, trace.problem)


def test_a_number_of_many_digits_is_read():
    assert answer_of_field(10**5000)[0] == "1" + "0" * 5000


def test_a_reduced_column_and_a_sentence_are_pointed_out():
    row = {"prompt": "p", "completion": "<think>a\n\nWait, b</think>c"}
    assert "more than the answer" in build_trace({**row, "answer": "We add.\n#### 5"}).note
    sentence = "Two pears and three pears are together no more than five pears"
    assert "a whole sentence" in build_trace({**row, "answer": sentence}).note
    assert build_trace({**row, "answer": "$5$"}).note is None


@pytest.mark.parametrize("value", [datetime.date(2024, 5, 1), True, float("inf"), "x" * 10**5, "\x00", "\ud800"])
def test_other_values_stop_nothing(value):
    assert isinstance(answer_of_field(value)[0], str)


@given(st.text(alphabet="\\boxed{}f 5#\n$*<>answer:is", max_size=60))
def test_any_text_is_read(text):
    assert extract_answer(text) is None or isinstance(extract_answer(text), str)
    assert isinstance(answer_of_field(text)[0], str)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is $-\boxed{5}$.", "-5"),
        (r"so it is -\boxed{5}.", "-5"),
        (r"$x = -\boxed{y+1}$", "-(y+1)"),
        (r"$\pm\boxed{5}$", r"\pm5"),
        (r"$2\boxed{5}$", r"2 \cdot 5"),
        (r"$= 2\boxed{\frac12}$", r"2\frac12"),
        (r"$\boxed{5}^2$", "5^2"),
        (r"$\boxed{x+1}^{10}$", "(x+1)^{10}"),
        (r"$\boxed{4210}_{5}$", "4210_{5}"),
        # What stands there but does not belong to it
        (r"$7 - \boxed{5} = 2$", "5"),
        (r"$7-\boxed{5}$", "5"),
        (r"$x -\boxed{5}$", "5"),
        ("So:\n\n- \\boxed{5}", "5"),
        (r"$2 \cdot \boxed{5} = 10$", "5"),
        (r"The number is $12\boxed{5}3$", "5"),
        (r"in step 2\boxed{5}", "5"),
        (r"$\boxed{90}^\circ$", "90"),
        (r"$\boxed{90}^{\circ}$", "90"),
        (r"$x = \boxed{5}$", "5"),
        (r"$\boxed{3}\pmod 9$", "3"),
        (r"$a^{\boxed{5}}$", "5"),
    ],
)
def test_a_sign_a_factor_a_power_or_a_base_belongs_to_its_box(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $5$ dollars and $6$ cents.", "$5$ dollars and $6$ cents"),
        ("The answer is $5$ when $n = 2$.", "5"),
        ("The answer is $2 + 3 = 5$.", "5"),
        ("The answer is $x = 5$.", "x = 5"),
        ("The answer is $5 and not $6.", "$5"),
        ("Option (C) is the correct one.", "(C)"),
        ("The correct choice is B.", "B"),
        ("#### 5\n\n#### Notes", "5"),
        ("#### 1 pear\n#### Evelyn", "Evelyn"),
    ],
)
def test_a_statement_ends_where_its_answer_does(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize("column", ["A: 5", "['5']", "-\\boxed{5}", "(a) 5 (b) 6", "Thus, $x = 5$.", "5.", "five"])
def test_what_is_reduced_is_the_text_that_is_attributed(column):
    """Tokens of the target are exactly those of the answer that was read."""
    tokenizer = tiny_tokenizer()
    row = {
        "question": "How many?",
        "solution": "<think>\nAdd.\n\nWait, count.\n</think>\n\nIt is 5.",
        "answer": column,
    }
    trace = build_trace(row)
    sequence = attributed_sequence(trace, tokenizer)
    assert trace.problem is None and sequence.problem is None
    target = tokenizer.decode(sequence.input_ids[slice(*sequence.target)])
    assert trace.answer in target and len(target.strip("{} ")) <= len(trace.answer) + 1


HOSTILE = [
    r"\boxed{",
    r"\boxed",
    r"\boxed\frac{",
    "{",
    "\\",
    "#### ",
    "####\n",
    " ",
    "the answer is ",
    "\nAnswer:",
    "$",
    "**",
    "-\\boxed{1}^2 ",
    "(a) 5 ",
    "['",
    "$5 and ",
    "Thus $x$ is ",
    "\n",
    "9",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_hostile_text_is_read(piece):
    """Not timed: a quadratic scanner would take very long. `benchmarks/linear.py` prints how time grows."""
    text = piece * (200_000 // len(piece))
    for ending in ("", "}" * 20_000):
        assert extract_answer(text + ending) is None or isinstance(extract_answer(text + ending), str)
        assert isinstance(answer_of_field(text + ending)[0], str)
