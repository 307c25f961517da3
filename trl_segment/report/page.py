"""
One HTML file that needs nothing else: style, script and data inside, no network, no markup from data.

Three things keep text from ever running: the template engine escapes what it is given, data goes in as JSON without
`<`, `>` and `&` and comes out as text nodes, and a content security policy names the page's own script and style by
hash and forbids everything else, so that even a mistake in the first two would run nothing.
"""

import base64
import functools
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..printing import printable
from .definitions import DEFINITIONS


def render_page(template: str, style: tuple[str, ...], script: tuple[str, ...], **values: Any) -> str:
    """
    Fill a page's template.

    Args:
        template (`str`):
            Name of a file in `report/templates`.
        style (`tuple[str, ...]`):
            Names of its style sheets there.
        script (`tuple[str, ...]`):
            Names of its scripts there, in order.
        **values:
            What the template names; everything that is text is escaped, and its control characters written out.

    Returns:
        `str`: The page.
    """
    css, js = (_own_source(names) for names in (style, script))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(js)}" if js else "script-src 'none'",
            f"style-src {_hash(css)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            # No string becomes markup or code, whoever asks for it
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
    return (
        _environment().get_template(template).render(policy=policy, css=css, js=js, definitions=DEFINITIONS, **values)
    )


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("trl_segment.report"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _own_source(names: tuple[str, ...]) -> Markup:
    folder = files("trl_segment.report").joinpath("templates")
    return Markup("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
