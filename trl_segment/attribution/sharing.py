"""How the processes of a run share its traces."""

import heapq
import itertools
import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object

from ..models.loading import process_state
from ..store import AttributionStore
from ..traces import Trace


if TYPE_CHECKING:
    from .runner import AttributionSummary


def deal_by_length(lengths: Sequence[int], hands: int) -> list[np.ndarray]:
    """
    Deal traces so that all get about the same sum of lengths: the longest first, each to who has least.

    Processes that share a model's parameters wait for one another at every pass: dealt like this, they are at traces
    of similar length at the same time.

    Args:
        lengths (`Sequence[int]`):
            Length of each trace.
        hands (`int`):
            Number of processes.

    Returns:
        `list[np.ndarray]`: Positions in `lengths` for each process, the longest first.
    """
    dealt = [[] for _ in range(hands)]
    held = [(0, hand) for hand in range(hands)]
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        total, hand = held[0]
        dealt[hand].append(index)
        heapq.heapreplace(held, (total + int(lengths[index]), hand))
    return [np.array(indices, dtype=np.int64) for indices in dealt]


def share_of_rows(rows: Sequence[int], read: Callable[[int], Trace], store: AttributionStore) -> Sequence[int]:
    """
    The rows that this process attributes, of those that it and the others share. All must call it together.

    Rows that the store does not hold are dealt by the length of their text, and rows with the same trace go to one
    process; those that cost nothing are dealt in turn. So what is computed does not depend on the number of processes.

    Args:
        rows (`Sequence[int]`):
            Row numbers, the same on every process.
        read (`Callable[[int], Trace]`):
            Reads a row.
        store ([`AttributionStore`]):
            What is attributed already; the main process's counts.

    Returns:
        `Sequence[int]`: Row numbers, the longest trace first. In a run of one process `rows`.

    Raises:
        `FileNotFoundError`: If a process does not see the folder that the main process writes to.
    """
    state = process_state()
    if state.num_processes == 1:
        return rows
    _check_folder_is_shared(store.path)
    described = []
    for row in rows[state.process_index :: state.num_processes]:
        trace = read(row)
        prompt = trace.prompt if isinstance(trace.prompt, str) else json.dumps(trace.prompt, default=str)
        length = len(prompt) + trace.reasoning[1] if trace.problem is None else 0
        described.append((row, trace.key, length))
    described = gather_object(described)
    shares = [None]
    if state.is_main_process:
        rows_of = {}
        for row, key, length in sorted(described):
            rows_of.setdefault((key, 0 if key in store else length), []).append(row)
        costly = [(length, same) for (_, length), same in rows_of.items() if length > 0]
        free = [same for (_, length), same in rows_of.items() if length == 0]
        hands = deal_by_length([length for length, _ in costly], state.num_processes)
        groups = [[costly[index][1] for index in dealt] + free[hand :: len(hands)] for hand, dealt in enumerate(hands)]
        shares[0] = [list(itertools.chain.from_iterable(same)) for same in groups]
    broadcast_object_list(shares)
    return shares[0][state.process_index]


def _check_folder_is_shared(path: Path) -> None:
    """Before hours are spent on scores that stay on one machine, look whether all processes see one folder."""
    state = process_state()
    mark = [uuid.uuid4().hex]
    broadcast_object_list(mark)
    file = path / f".shared-{mark[0]}"
    if state.is_main_process:
        file.touch()
    state.wait_for_everyone()
    deadline = time.monotonic() + 30  # network file systems show new files late
    while not (seen := file.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    blind = [index for index, sees in enumerate(gather_object([seen])) if not sees]
    if state.is_main_process:
        file.unlink()
    if blind:
        raise FileNotFoundError(
            f"What the main process writes to the attribution store {str(path)!r} is not seen by processes "
            f"{', '.join(map(str, blind))} of {state.num_processes}. Put the store (`attributions` of `trl-segment "
            "attribute`, `output_dir` in training) in a folder that all machines share."
        )


def describe_balance(summary: "AttributionSummary") -> str:
    """
    How evenly the processes of a run were loaded. All must call it together.

    Args:
        summary ([`AttributionSummary`]):
            This process's.

    Returns:
        `str`: One line with the ratio of the slowest process's time to the mean, empty in a run of one process.
    """
    seconds = np.array(gather_object([summary.seconds]))
    if len(seconds) == 1:
        return ""
    ratio = seconds.max() / max(seconds.mean(), 1e-9)
    return f"{len(seconds)} processes, busy for {seconds.mean():,.1f} s on average, the slowest {ratio:.2f} times that"
