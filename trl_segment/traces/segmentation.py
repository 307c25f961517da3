"""Cut the text of a reasoning trace into segments: character spans that cover it without gap or overlap."""

import itertools
import re
from collections.abc import Callable


# The openers of the paper (arXiv 2602.00425); a segment starts at the blank line in front of one of them.
PAPER_KEYWORDS = (
    "Wait",
    "Alternatively",
    "But wait",
    "But alternatively",
    "But just to",
    "However",
    "Not sure",
    "Going back",
    "Backtrack",
    "Trace back",
    "Another",
)
# Retro-Search cuts at these too.
RETRO_SEARCH_KEYWORDS = (*PAPER_KEYWORDS, "But", "Hmm", "Hmmm")

_BLANK_LINE = r"(?:\r?\n){2}"


def _keyword_pattern(keywords: tuple[str, ...]) -> re.Pattern:
    return re.compile(rf"{_BLANK_LINE}(?=(?:{'|'.join(map(re.escape, keywords))})\b)")


# A segment starts where the pattern matches, so the newlines go with the segment that they open.
_PATTERNS = {
    "keywords": _keyword_pattern(PAPER_KEYWORDS),
    "retro_search": _keyword_pattern(RETRO_SEARCH_KEYWORDS),
    "paragraphs": re.compile(r"(?:\r?\n){2,}(?=\S)"),
}
SEGMENTERS = (*_PATTERNS, "regex")

Segmenter = str | Callable[[str], list[str]]


def check_segmenter(segmenter: Segmenter, pattern: str | None = None) -> None:
    """
    Raise a `ValueError` if `segmenter` and `pattern` do not go together.

    Args:
        segmenter (`str` or `Callable`):
            See [`segment_text`].
        pattern (`str`, *optional*):
            See [`segment_text`].
    """
    if callable(segmenter):
        return
    if segmenter not in SEGMENTERS:
        raise ValueError(
            f"Unknown segmenter {segmenter!r}. Pass one of {', '.join(SEGMENTERS)}, or, in Python, a callable that "
            "takes the reasoning text and returns the list of its pieces."
        )
    if segmenter == "regex":
        if not pattern:
            raise ValueError(
                "The segmenter 'regex' needs a pattern: a segment starts wherever it matches. Set `segment_pattern`, "
                r"for example '\n\n(?=Step \d)'."
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`segment_pattern` {pattern!r} is not a regular expression: {error}. Escape special characters with "
                "a backslash."
            ) from error
    elif pattern is not None:
        raise ValueError(
            f"`segment_pattern` {pattern!r} is only read by the segmenter 'regex', but the segmenter is "
            f"{segmenter!r}. Set `segmenter='regex'` or leave the pattern out."
        )


def segment_text(text: str, segmenter: Segmenter = "keywords", pattern: str | None = None) -> list[tuple[int, int]]:
    r"""
    Cut `text` into segments.

    Args:
        text (`str`):
            Text of the reasoning.
        segmenter (`str` or `Callable`, *optional*, defaults to `"keywords"`):
            Where segments start:

            - `"keywords"`: at a blank line followed by an opener of the paper ([`PAPER_KEYWORDS`]).
            - `"retro_search"`: the same with Retro-Search's wider list ([`RETRO_SEARCH_KEYWORDS`]).
            - `"paragraphs"`: at every blank line that is followed by text.
            - `"regex"`: wherever `pattern` matches.
            - a callable that takes the text and returns its pieces in order. Joined they must give the text back.
        pattern (`str`, *optional*):
            Regular expression of the segmenter `"regex"`.

    Returns:
        `list[tuple[int, int]]`: Character spans (start, end), none empty, that cover `text` exactly. Empty if `text`
        is.

    Raises:
        `ValueError`: If the segmenter is unknown, or a callable's pieces do not join to `text`.

    Examples:
    ```python
    >>> segment_text("2 + 2 = 5.\n\nWait, it is 4.\n\nDone.")
    [(0, 10), (10, 33)]
    ```
    """
    check_segmenter(segmenter, pattern)
    if callable(segmenter):
        pieces = list(segmenter(text))
        if not all(isinstance(piece, str) for piece in pieces) or "".join(pieces) != text:
            raise ValueError(
                f"The segmenter {getattr(segmenter, '__name__', segmenter)!r} returned {len(pieces)} pieces that do "
                "not join to the text it was given. Return a list of strings whose concatenation is the text, white "
                "space included."
            )
        starts, position = [], 0
        for piece in pieces:
            starts.append(position)
            position += len(piece)
    else:
        compiled = re.compile(pattern) if segmenter == "regex" else _PATTERNS[segmenter]
        starts = [0, *(match.start() for match in compiled.finditer(text))]
    bounds = [*sorted(set(starts) - {len(text)}), len(text)]
    return list(itertools.pairwise(bounds))
