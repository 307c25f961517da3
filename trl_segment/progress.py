"""The bar that long commands show, and how a run goes without any."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .printing import printable


if TYPE_CHECKING:
    from tqdm.auto import tqdm

# What libraries read when they are imported, and processes that are started read too
_SWITCHES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
# Libraries that are loaded already: module, whether its bars are shown, and the functions that turn them off and on
_LIBRARIES = (
    (
        "huggingface_hub.utils",
        lambda m: not m.are_progress_bars_disabled(),
        "disable_progress_bars",
        "enable_progress_bars",
    ),
    ("datasets", lambda m: not m.are_progress_bars_disabled(), "disable_progress_bars", "enable_progress_bars"),
    (
        "transformers.utils.logging",
        lambda m: m.is_progress_bar_enabled(),
        "disable_progress_bar",
        "enable_progress_bar",
    ),
)

_quiet = False


def is_quiet() -> bool:
    """Whether this process is to show no progress."""
    return _quiet


@contextlib.contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """
    Show no progress while the context lasts: no bar of this package, and none of the Hugging Face libraries.

    Args:
        on (`bool`, *optional*, defaults to `True`):
            Whether to be quiet; `False` leaves things as they are.
    """
    global _quiet
    if not on or _quiet:
        yield
        return
    kept = {name: os.environ.get(name) for name in _SWITCHES}
    shown = [
        (sys.modules[name], off, turn_on)
        for name, are_shown, off, turn_on in _LIBRARIES
        if name in sys.modules and are_shown(sys.modules[name])
    ]
    _quiet = True
    os.environ.update(dict.fromkeys(_SWITCHES, "1"))
    for module, off, _ in shown:
        getattr(module, off)()
    try:
        yield
    finally:
        _quiet = False
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for module, _, turn_on in shown:
            getattr(module, turn_on)()


def progress_bar(
    items: Iterable | None,
    description: str,
    unit: str = "trace",
    total: int | None = None,
    shown: bool | None = None,
    initial: int = 0,
) -> "tqdm":
    """
    A bar over items, with their number, their rate and the time left.

    Args:
        items (`Iterable` or `None`):
            What is worked on; `None` for a bar that is moved by hand.
        description (`str`):
            What is done to it, in front of the bar.
        unit (`str`, *optional*, defaults to `"trace"`):
            What one item is called.
        total (`int`, *optional*):
            How many there are, where `items` does not say.
        shown (`bool`, *optional*):
            Whether to show the bar. By default on a terminal: a log file has no use for one. Only the main one
            of several processes should show any, and none does in [`quiet`].
        initial (`int`, *optional*, defaults to `0`):
            How many were done before.

    Returns:
        [`~tqdm.tqdm`]: To iterate over.
    """
    from tqdm.auto import tqdm

    return tqdm(
        items,
        desc=printable(description),
        unit=unit,
        total=total,
        initial=initial,
        # `None` asks tqdm to look for a terminal
        disable=_quiet or (None if shown is None else not shown),
        dynamic_ncols=True,
        smoothing=0.1,  # traces differ in length, so the time left goes by the last twenty or so
    )


def show_rate(bar: "tqdm", tokens: int, evaluations: int | None = None, items: int | None = None) -> None:
    """
    Write tokens per second, and gradient evaluations per item, behind a bar.

    Args:
        bar ([`~tqdm.tqdm`]):
            A bar of [`progress_bar`].
        tokens (`int`):
            Tokens worked on since the bar began.
        evaluations (`int`, *optional*):
            Gradient evaluations spent since.
        items (`int`, *optional*):
            Items that they were spent on.
    """
    now = bar.format_dict
    shown = f"{tokens / max(now['elapsed'], 1e-9):,.0f} tokens/s"
    if evaluations is not None and items:
        shown += f", {evaluations / items:.1f} evaluations/{now['unit']}"
    bar.set_postfix_str(shown, refresh=False)
