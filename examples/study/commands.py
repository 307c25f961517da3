"""What every study does with the public commands: run them in this process, and read and write rows."""

from __future__ import annotations

import contextlib
import gc
import io
import json
from pathlib import Path


def run_command(*argv: object) -> str:
    """
    Runs `trl-segment` in this process.

    Args:
        *argv (`object`):
            Command and options.

    Returns:
        `str`: What it printed.

    Raises:
        `RuntimeError`: If the command ended with an error, which it has printed. (Its own `SystemExit` would end a
            process of a pool.)
    """
    from trl_segment.cli.main import main

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            main([str(argument) for argument in argv])
    except SystemExit as end:
        if end.code:
            raise RuntimeError(
                f"`trl-segment {' '.join(map(str, argv))}` ended with exit code {end.code}; its error is above."
            ) from end
    finally:
        _release_accelerator()
    return printed.getvalue()


def _release_accelerator() -> None:
    """Gives back the memory that torch keeps of an accelerator. Other processes of the study have none else."""
    import torch

    if torch.accelerator.is_available():
        gc.collect()
        torch.accelerator.empty_cache()


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name first, so that one that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Writes one JSON object a line."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict]:
    """Reads one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
