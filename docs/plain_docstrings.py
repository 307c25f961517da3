"""Docstrings in TRL's style, as MkDocs can show them: without the marks that another documentation builder reads."""

import re

import griffe


def plain_docstring(text: str) -> str:
    """
    [`~trl.SFTTrainer`] becomes `SFTTrainer`; the type of an argument, a result or an error loses its backticks, since
    it is shown as code.
    """
    text = re.sub(r"\[`~([\w.]+)`\]", lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text)
    text = re.sub(r"\[`([\w.]+)`\]", r"`\1`", text)
    argument = re.compile(r"^( *\*{0,2}\w+ \()(.+)(\):)$", re.MULTILINE)
    text = argument.sub(
        lambda match: match[1] + match[2].replace("`", "").replace("*optional*", "optional") + match[3], text
    )
    return re.sub(r"^( +)`([^`\n]+)`: ", r"\1\2: ", text, flags=re.MULTILINE)


class PlainDocstrings(griffe.Extension):
    """Rewrite docstrings as griffe loads them."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = plain_docstring(obj.docstring.value)
