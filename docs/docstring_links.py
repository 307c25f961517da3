"""Links of our docstrings, written as TRL writes them ([`~trl.SFTTrainer`]), as code with the last name."""

import re

import griffe


def shorten_links(text: str) -> str:
    """[`~trl.SFTTrainer`] becomes `SFTTrainer`, [`TraceConfig`] becomes `TraceConfig`."""
    text = re.sub(r"\[`~([\w.]+)`\]", lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text)
    return re.sub(r"\[`([\w.]+)`\]", r"`\1`", text)


class DocstringLinks(griffe.Extension):
    """Rewrite docstrings as griffe loads them, for there is nobody to resolve these links in MkDocs."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = shorten_links(obj.docstring.value)
