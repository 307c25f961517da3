"""The bar that long commands show."""

from collections.abc import Iterable

from tqdm.auto import tqdm

from .printing import printable


def progress_bar(
    items: Iterable, description: str, unit: str = "trace", total: int | None = None, shown: bool | None = None
) -> tqdm:
    """
    A bar over items, with their number, their rate and the time left.

    Args:
        items (`Iterable`):
            What is worked on.
        description (`str`):
            What is done to it, in front of the bar.
        unit (`str`, *optional*, defaults to `"trace"`):
            What one item is called.
        total (`int`, *optional*):
            How many there are, where `items` does not say.
        shown (`bool`, *optional*):
            Whether to show the bar. By default on a terminal: a log file has no use for one. Only the main one
            of several processes should show any.

    Returns:
        [`~tqdm.tqdm`]: To iterate over.
    """
    return tqdm(
        items,
        desc=printable(description),
        unit=unit,
        total=total,
        disable=None if shown is None else not shown,  # `None` asks tqdm to look for a terminal
        dynamic_ncols=True,
        smoothing=0.1,  # traces differ in length, so the time left goes by the last twenty or so
    )


def show_rate(bar: tqdm, tokens: int, evaluations: int | None = None, items: int | None = None) -> None:
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
