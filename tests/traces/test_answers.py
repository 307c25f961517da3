import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.traces import extract_answer, extract_boxed


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
        (r"\boxed{}", ""),
        (r"\boxed{   }", ""),
        (r"\fbox{\boxed{3}}", "3"),
        ("\\boxed{\n\\begin{matrix}1\\\\2\\end{matrix}\n}", "\\begin{matrix}1\\\\2\\end{matrix}"),
    ],
)
def test_last_complete_box_counts(text, answer):
    assert extract_boxed(text) == answer
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", ["", "42", r"\boxed", r"\boxed{", r"\boxed{\}", r"\boxed 5", r"boxed{5}", r"\box{5}"])
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
    assert extract_boxed("\\boxed{1} \\boxed{" + content + "}" + tail) == content.strip()
