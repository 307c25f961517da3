"""The list of traces of a report, and the pages that it leads to."""

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from ..selection import SelectionConfig
from ..store import StoredAttribution
from ..traces import Trace
from .statistics import ListedTrace
from .trace_page import Neighbors, render_trace_page


_FOLDER = "traces"
# Files of our own, which a run before this one may have left
_PAGE_NAME = re.compile(r"trace-\d+\.html")


def list_data(listed: Sequence[ListedTrace], pages: Container[int]) -> dict[str, Any]:
    """
    What the list's script reads.

    Args:
        listed (`Sequence[ListedTrace]`):
            The traces.
        pages (`Container[int]`):
            Numbers of the rows that have a page.

    Returns:
        `dict[str, Any]`: `"columns"`, the names of the fields of [`ListedTrace`] and `"page"`; `"rows"`, a list of
        their values for each trace, where `page` is an address or `None`.
    """

    def short(value):
        return float(f"{value:.5g}") if isinstance(value, float) else value

    rows = [
        [*map(short, astuple(trace)), page_address(trace.number) if trace.number in pages else None]
        for trace in listed
    ]
    return {"columns": [*(field.name for field in fields(ListedTrace)), "page"], "rows": rows}


def page_address(number: int) -> str:
    """
    Where the page of a row is, seen from the report's folder. No name of a trace has a part in it.

    Args:
        number (`int`):
            Number of the row, from 0.

    Returns:
        `str`: A relative address.
    """
    return f"{_FOLDER}/trace-{number}.html"


class TracePages:
    """
    Writes pages of traces as they pass by, each with links to the one before, the one after and the list.

    Pages that a run before has left in the folder are removed, since they would show another selection.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the report.
        wanted (`Container[int]`):
            Numbers of the rows to write a page of.
        config ([`~trl_segment.SelectionConfig`]):
            Thresholds that the pages open with.
        settings (`Mapping`, *optional*):
            What made the scores.

    Attributes:
        written (`set[int]`):
            Numbers of the rows that have a page.
        rows (`int`):
            Number of rows that have passed by.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        wanted: Container[int],
        config: SelectionConfig,
        settings: Mapping[str, Any] | None = None,
    ):
        self.written: set[int] = set()
        self.rows = 0
        self._folder, self._wanted, self._config, self._settings = Path(folder), wanted, config, settings
        for file in (self._folder / _FOLDER).glob("*.html"):
            if _PAGE_NAME.fullmatch(file.name):
                file.unlink()

    def watch(
        self, rows: Iterable[tuple[str, Trace | None, StoredAttribution | None, Sequence[str] | None]]
    ) -> Iterator[tuple[str, Trace | None, StoredAttribution | None, Sequence[str] | None]]:
        """
        Pass rows on, as [`~trl_segment.report.statistics.collect_statistics`] takes them.

        Args:
            rows (`Iterable[tuple]`):
                The rows of the dataset from the first on.

        Yields:
            `tuple`: Each row as it came.
        """
        # One waits until the next is known, which it links to
        before, waiting = None, None
        for number, row in enumerate(rows):
            self.rows += 1
            name, trace, stored, _ = row
            if number in self._wanted and trace is not None and stored is not None:
                if waiting is not None:
                    self._write(*waiting, before, (number, name))
                    before = (waiting[0], waiting[1][0])
                waiting = (number, row)
            yield row
        if waiting is not None:
            self._write(*waiting, before, None)

    def _write(self, number, row, before, after):
        name, trace, stored, roles = row
        file = self._folder / page_address(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        neighbors = Neighbors(
            list_address="../index.html#traces",
            previous=before and (before[1], Path(page_address(before[0])).name),
            next=after and (after[1], Path(page_address(after[0])).name),
        )
        page = render_trace_page(name, trace, stored, self._config, self._settings, roles=roles, neighbors=neighbors)
        file.write_text(page, encoding="utf-8", newline="\n")
        self.written.add(number)
