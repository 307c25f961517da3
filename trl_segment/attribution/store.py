"""
Stored attributions: a folder with `settings.json` (what made them) and Parquet files (one row per trace).

What is stored are the few numbers per segment that every selection rule needs, so thresholds can change for free.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("problem", pa.string()),
        ("num_tokens", pa.list_(pa.int32())),
        ("sum_abs", pa.list_(pa.float64())),
        ("sum_signed", pa.list_(pa.float64())),
        ("sequence_tokens", pa.int32()),
        ("f_input", pa.float64()),
        ("f_baseline", pa.float64()),
        ("completeness_gap", pa.float64()),
        ("defect", pa.float64()),
        ("evaluations", pa.int32()),
        ("stopped_by", pa.string()),
    ]
)


@dataclass
class StoredAttribution:
    """
    One trace's row.

    Args:
        key (`str`):
            [`~trl_segment.traces.Trace`]'s key.
        name (`str`):
            What the dataset calls it: its `id` column or its row number.
        problem (`str`, *optional*):
            Why it was not attributed. Such a trace is trained in full, and the numbers below are empty.
        num_tokens (`list[int]`):
            Tokens per segment, with the attribution model's tokenizer.
        sum_abs (`list[float]`):
            Sum of absolute token attributions per segment, in nats.
        sum_signed (`list[float]`):
            Sum of signed token attributions per segment, in nats.
        sequence_tokens (`int`):
            Tokens of the attributed sequence.
        f_input (`float`):
            Log-probability of the answer, in nats.
        f_baseline (`float`):
            The same at the baseline.
        completeness_gap (`float`):
            Sum of all token attributions minus (`f_input - f_baseline`).
        defect (`float`):
            Quadrature error in nats, as far as completeness shows it.
        evaluations (`int`):
            Gradient evaluations spent.
        stopped_by (`str`):
            Why the rule spent no more.
    """

    key: str
    name: str
    problem: str | None = None
    num_tokens: list[int] = field(default_factory=list)
    sum_abs: list[float] = field(default_factory=list)
    sum_signed: list[float] = field(default_factory=list)
    sequence_tokens: int = 0
    f_input: float | None = None
    f_baseline: float | None = None
    completeness_gap: float | None = None
    defect: float | None = None
    evaluations: int = 0
    stopped_by: str | None = None


class AttributionStore(Mapping):
    """
    The attributions in a folder, by trace key.

    Args:
        path (`str` or `os.PathLike`):
            Folder of the store.
        settings (`dict`, *optional*):
            Everything that changes the scores: model, tokenizer, rule, baseline, segmenter. To write, it must be
            given; an existing store with other settings is refused. `None` opens an existing store for reading.
        flush_every (`int`, *optional*, defaults to `16`):
            Number of traces after which what was added is written to disk.

    Raises:
        `FileNotFoundError`: If there is no store to read.
        `ValueError`: If the store was made with other settings.
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, Any] | None = None, flush_every: int = 16):
        self.path = Path(path)
        self.flush_every = flush_every
        self._pending: list[StoredAttribution] = []
        settings_file = self.path / "settings.json"
        if settings_file.exists():
            self.settings = json.loads(settings_file.read_text(encoding="utf-8"))
            if settings is not None:
                self._check_settings(settings)
        elif settings is None:
            raise FileNotFoundError(
                f"There is no attribution store at {str(self.path)!r} (no settings.json in it). Make one with "
                "`trl-segment attribute --model_name_or_path ... --dataset_name ... --attributions PATH`."
            )
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            # Through JSON and back, so that a reopened store compares equal
            self.settings = json.loads(json.dumps(settings))
            _write_atomically(settings_file, json.dumps(self.settings, indent=2).encode())
        self._rows = {}
        self._read(self._parts())

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def _check_settings(self, settings):
        settings = json.loads(json.dumps(settings))
        keys = sorted(self.settings.keys() | settings.keys())
        differences = [
            f"  {key}: stored {self.settings.get(key)!r}, now {settings.get(key)!r}"
            for key in keys
            if self.settings.get(key) != settings.get(key)
        ]
        if differences:
            raise ValueError(
                f"The attribution store at {str(self.path)!r} was made with other settings, and scores of different "
                "settings must not mix:\n" + "\n".join(differences) + "\nChoose another folder with `attributions`, "
                "delete this one, or go back to its settings."
            )

    def __getitem__(self, key: str) -> StoredAttribution:
        return self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: StoredAttribution) -> None:
        """
        Add a trace's attribution; written to disk with the next flush.

        Args:
            row ([`StoredAttribution`]):
                Replaces what was stored under its key.
        """
        self._rows[row.key] = row
        self._pending.append(row)
        if len(self._pending) >= self.flush_every:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush to a file of its own, all of it or nothing."""
        if self._pending:
            self._write_part(self._pending)
            self._pending = []

    def compact(self) -> None:
        """Flush, and merge all files into one."""
        self.flush()
        parts = self._parts()
        if len(parts) > 1:
            self._read(parts)  # other processes may have written some since
            self._write_part(list(self._rows.values()))
            for part in parts:  # killed before this, rows stand twice under one key, which does no harm
                part.unlink()

    def write_array(self, name: str, values: np.ndarray) -> None:
        """
        Keep an array that the scores depend on beside them.

        Args:
            name (`str`):
                Its name.
            values (`np.ndarray`):
                Numbers, shape (values,).
        """
        _write_atomically(self.path / f"{name}.json", json.dumps(np.asarray(values).tolist()).encode())

    def read_array(self, name: str) -> np.ndarray | None:
        """
        Read what [`~AttributionStore.write_array`] wrote.

        Args:
            name (`str`):
                Its name.

        Returns:
            `np.ndarray` or `None`: The array, shape (values,), if there is one.
        """
        file = self.path / f"{name}.json"
        return np.array(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def _read(self, parts):
        for part in parts:
            for row in pq.read_table(part, schema=_SCHEMA).to_pylist():
                self._rows[row["key"]] = StoredAttribution(**row)

    def _write_part(self, rows):
        # In order of time, so that a later row replaces an earlier one when they are read
        name = f"part-{time.time_ns():020d}-{uuid.uuid4().hex}.parquet"
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        _write_atomically(self.path / name, sink.getvalue().to_pybytes())


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
