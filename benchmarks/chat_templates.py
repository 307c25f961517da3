r"""
What becomes of a reasoning in each of TRL's chat templates. One Markdown table:

    python benchmarks/chat_templates.py

Every template in `trl/chat_templates` renders one question and one answer with a reasoning, in the two forms that
datasets have: between `<think>` and `</think>` in the content, and in a field `reasoning_content` of its own. The
reasoning begins and ends with a newline, as in the output of an R1 distill.

| word | meaning |
| --- | --- |
| kept | the reasoning is in the rendered text, white space included |
| re-spaced | it is there without the white space around it |
| dropped | it is not there: training on the rendered text never sees it |
| cannot render | the template raises an error |

No tokenizer is needed: the question is answered on the text alone, which is what makes the table a check on the
trainer (`tests/traces/test_chat_templates.py`) and not its echo.
"""

from dataclasses import dataclass, field
from pathlib import Path

import trl
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


FOLDER = Path(trl.__file__).parent / "chat_templates"
BOS, EOS = "<bos>", "<eos>"

# Prompt and response repeat sentences of the reasoning, so that a search which finds the wrong place shows
QUESTION = "What is 2 + 2? However, it is four."
REASONING = (
    "\nTwo and two. Five.\n\nWait, no. Six.\n\nAlternatively, count.\n\nOne, two, four.\n\nHowever, it is four.\n"
)
RESPONSE = "However, it is four: \\boxed{4}."

FORMS = ("tags", "field")
REMARKS = (
    "Takes content as a list of parts, `[{'type': 'text', 'text': ...}]`. Where content is text, it raises an error "
    "or, worse, silently leaves out every word of it.",
    "Puts an empty `<think></think>` in front of content that brings its own.",
    "Its generation prompt ends in an empty `<think></think>`, unless `chat_template_kwargs` say `enable_thinking`: "
    "the prompt is then not what the reasoning follows in the rendered conversation.",
)


@dataclass
class Outcome:
    """
    What a template makes of a reasoning.

    Args:
        kind (`str`):
            `"kept"`, `"re-spaced"`, `"dropped"` or `"cannot render"`.
        text (`str`):
            The rendered text, or the error.
        as_parts (`bool`):
            Whether the contents had to be lists of parts.
        remarks (`list[int]`):
            Which of `REMARKS` apply.
    """

    kind: str
    text: str
    as_parts: bool = False
    remarks: list[int] = field(default_factory=list)


def template_files() -> list[Path]:
    """Every chat template that TRL ships, by name."""
    return sorted(FOLDER.glob("*.jinja"))


def make_row(form: str, as_parts: bool = False) -> dict[str, list[dict]]:
    """
    The trace as a conversational prompt-completion row.

    Args:
        form (`str`):
            Where the reasoning stands: `"tags"` (in the content) or `"field"` (`reasoning_content`).
        as_parts (`bool`, *optional*, defaults to `False`):
            Whether contents are lists of parts, as templates of vision models want them.

    Returns:
        `dict`: `prompt` and `completion`.
    """

    def content(text):
        return [{"type": "text", "text": text}] if as_parts else text

    if form == "tags":
        answer = {"role": "assistant", "content": content(f"<think>{REASONING}</think>\n\n{RESPONSE}")}
    else:
        answer = {"role": "assistant", "content": content(RESPONSE), "reasoning_content": REASONING}
    return {"prompt": [{"role": "user", "content": content(QUESTION)}], "completion": [answer]}


def classify(template: str, form: str) -> Outcome:
    """
    Render a trace and look for its reasoning.

    Args:
        template (`str`):
            Jinja source.
        form (`str`):
            See [`make_row`].

    Returns:
        [`Outcome`]: What was found.
    """
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = template
    for as_parts in (False, True):
        row = make_row(form, as_parts)
        try:
            prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            text = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        except TemplateError as error:
            outcome = Outcome("cannot render", f"{type(error).__name__}: {error}", as_parts)
            continue
        kind = "kept" if REASONING in text else "re-spaced" if REASONING.strip() in text else "dropped"
        outcome = Outcome(kind, text, as_parts, [0] if as_parts else [])
        if text.count("<think>") > 1:
            outcome.remarks.append(1)
        if prompt.rstrip().endswith("</think>"):
            outcome.remarks.append(2)
        # A template that loses even the question was not made for content that is text
        if QUESTION in text:
            break
    return outcome


def table() -> str:
    """The outcomes of all templates, as Markdown."""
    lines = ["| template | content with `<think>` | `reasoning_content` |", "| --- | --- | --- |"]
    marks = "¹²³"
    for file in template_files():
        outcomes = [classify(file.read_text(encoding="utf-8"), form) for form in FORMS]
        # What holds for both forms is said of the template
        shared = [remark for remark in outcomes[0].remarks if remark in outcomes[1].remarks]
        cells = [f"`{file.stem}`" + "".join(marks[remark] for remark in shared)]
        for outcome in outcomes:
            own = [remark for remark in outcome.remarks if remark not in shared]
            cells.append(outcome.kind + "".join(marks[remark] for remark in own))
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"{mark} {remark}" for mark, remark in zip(marks, REMARKS, strict=True)]
    return "\n".join([*lines, "", "  \n".join(notes)])


if __name__ == "__main__":
    print(table())
