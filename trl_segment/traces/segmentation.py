"""Cut the text of a reasoning trace into segments: character spans that cover it without gap or overlap."""

import atexit
import collections
import functools
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..workers import Worker, WorkerDied


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


# A segment starts where the pattern matches, so the newlines go with the segment that they open. Possessive: a run of
# newlines is read once, and not once from each of its newlines.
_PATTERNS = {
    "keywords": _keyword_pattern(PAPER_KEYWORDS),
    "retro_search": _keyword_pattern(RETRO_SEARCH_KEYWORDS),
    "paragraphs": re.compile(r"(?<!\n)(?<!\r(?=\n))(?:\r?\n){2,}+(?=\S)"),
}
SEGMENTERS = (*_PATTERNS, "regex")

Segmenter = str | Callable[[str], list[str]]

# A user's or a store's own pattern: seconds for one text, texts that may take longer, and its length
PATTERN_SECONDS = 5.0
_MOST_SLOW_TEXTS = 3
_LONGEST_PATTERN = 10_000


class SlowPatternError(ValueError):
    """A pattern takes too long on a text."""


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
    if segmenter not in SEGMENTERS and not (isinstance(segmenter, str) and ":" in segmenter):
        raise ValueError(
            f"Unknown segmenter {segmenter!r}. Pass one of {', '.join(SEGMENTERS)}, 'FILE.py:FUNCTION' or "
            "'MODULE:FUNCTION' for a function that takes the reasoning text and returns the list of its pieces, or, "
            "in Python, the function itself."
        )
    if segmenter == "regex":
        if not pattern:
            raise ValueError(
                "The segmenter 'regex' needs a pattern: a segment starts wherever it matches. Set `segment_pattern`, "
                r"for example '\n\n(?=Step \d)'."
            )
        if len(pattern) > _LONGEST_PATTERN:
            raise ValueError(
                f"`segment_pattern` has {len(pattern):,} characters, more than {_LONGEST_PATTERN:,}. Pass a shorter "
                "one, or a function as the segmenter."
            )
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"`segment_pattern` {pattern!r} is not a regular expression: {error}. Escape special characters with "
                "a backslash."
            ) from error
    elif pattern is not None:
        raise ValueError(
            f"`segment_pattern` {pattern!r} is only read by the segmenter 'regex', but the segmenter is "
            f"{segmenter!r}. Set `segmenter='regex'` or leave the pattern out."
        )


def load_segmenter(name: str) -> Callable[[str], list[str]]:
    """
    The function that a name stands for. Its module is run: never pass a name that a file from elsewhere holds.

    Args:
        name (`str`):
            `"FILE.py:FUNCTION"` or `"MODULE:FUNCTION"`.

    Returns:
        `Callable[[str], list[str]]`: The function.

    Raises:
        `ValueError`: If there is no such file, module or function.
    """
    module_name, _, function = name.rpartition(":")
    try:
        if module_name.endswith(".py"):
            path = Path(module_name).resolve()
            module = _run_file(path, path.stat().st_mtime_ns)
        else:
            module = importlib.import_module(module_name)
        found = getattr(module, function)
    except (OSError, ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"The segmenter {name!r} cannot be loaded ({type(error).__name__}: {error}). Pass 'FILE.py:FUNCTION' or "
            "'MODULE:FUNCTION', where the function takes the reasoning text and returns the list of its pieces."
        ) from error
    if not callable(found):
        raise ValueError(f"The segmenter {name!r} is a {type(found).__name__}, not a function.")
    return found


@functools.lru_cache
def _run_file(path: Path, changed: int) -> ModuleType:
    """The module of a file, run once in each state of the file: a segmenter is asked for with every row."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    # Where the function's own pickling and `inspect` look for it
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def describe_segmenter(segmenter: Segmenter) -> tuple[str, str | None]:
    """
    What a custom segmenter is told apart by.

    Args:
        segmenter (`str` or `Callable`):
            A function, or the name of one for [`load_segmenter`].

    Returns:
        `tuple[str, str | None]`: Its name, and a hash of its module's source, `None` where that cannot be read (a
        function that was typed in, or is written in C).
    """
    function: Any = load_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
    function = inspect.unwrap(getattr(function, "func", function))  # what a partial and a decorator wrap
    function = function if hasattr(function, "__qualname__") else type(function)
    try:
        # The whole module: the function may call others in it
        source = Path(inspect.getsourcefile(function) or "").read_bytes()
    except (OSError, TypeError):
        return function.__qualname__, None
    return function.__qualname__, hashlib.sha256(source).hexdigest()[:16]


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
            - `"FILE.py:FUNCTION"` or `"MODULE:FUNCTION"`: a function of that file or module.
            - a callable that takes the text and returns its pieces in order. Joined they must give the text back.
        pattern (`str`, *optional*):
            Regular expression of the segmenter `"regex"`.

    Returns:
        `list[tuple[int, int]]`: Character spans (start, end), none empty, that cover `text` exactly. Empty if `text`
        is.

    Raises:
        `ValueError`: If the segmenter is unknown, or a callable's pieces do not join to `text`.
        `SlowPatternError`: If `pattern` takes more than 5 s on `text`. On the fourth such text it is a `ValueError`
            that nobody should catch.

    Examples:
    ```python
    >>> segment_text("2 + 2 = 5.\n\nWait, it is 4.\n\nDone.")
    [(0, 10), (10, 33)]
    ```
    """
    check_segmenter(segmenter, pattern)
    if isinstance(segmenter, str) and ":" in segmenter:
        segmenter = load_segmenter(segmenter)
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
        if segmenter == "regex":
            found = _match_starts(pattern or "", text)
        else:
            found = [match.start() for match in _PATTERNS[segmenter].finditer(text)]
        starts = [0, *found]
    bounds = [*sorted(set(starts) - {len(text)}), len(text)]
    return list(itertools.pairwise(bounds))


_slow_texts: collections.Counter[str] = collections.Counter()


@functools.cache
def _pattern_worker() -> Worker:
    worker = Worker(["-I", str(Path(__file__).with_name("pattern_worker.py"))])
    atexit.register(worker.stop)
    return worker


def _match_starts(pattern: str, text: str) -> list[int]:
    """Where a foreign pattern matches, found in a process that can be killed."""
    if _slow_texts[pattern] >= _MOST_SLOW_TEXTS:
        raise ValueError(
            f"`segment_pattern` {pattern!r} took more than {PATTERN_SECONDS:g} s on each of {_MOST_SLOW_TEXTS} texts. "
            "A repeat inside a repeat, such as (a+)+, tries every way to share the text between them. Write a pattern "
            "without one, or pass a function as the segmenter."
        )
    try:
        found = _pattern_worker().ask([pattern, text], PATTERN_SECONDS)
    except TimeoutError as error:
        _slow_texts[pattern] += 1
        raise SlowPatternError(f"`segment_pattern` takes more than {PATTERN_SECONDS:g} s on it") from error
    except WorkerDied as error:
        _slow_texts[pattern] += 1
        raise SlowPatternError("`segment_pattern` ends the process that looks for it") from error
    if isinstance(found, str):
        raise ValueError(f"`segment_pattern` {pattern!r} cannot be looked for: {found}. Write a simpler one.")
    return found
