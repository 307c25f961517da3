"""A store that belongs to its run: scores that do not fit are moved aside, and come back when they fit again."""

import hashlib
import json
import os
from pathlib import Path

from ..printing import get_logger
from .locks import exclusive_run
from .settings import StoreSettings
from .store import AttributionStore, read_settings


logger = get_logger(__name__)


def open_or_renew(path: str | os.PathLike, settings: StoreSettings) -> AttributionStore:
    """
    Open a store for writing; if what is in its folder was made with other settings, begin anew.

    Nothing is deleted: the folder is renamed, with a hash of its settings behind its name, and renamed back when a run
    with those settings comes again.

    Args:
        path (`str` or `os.PathLike`):
            Folder of the store.
        settings ([`~trl_segment.store.StoreSettings`]):
            Everything that changes the scores of this run.

    Returns:
        [`AttributionStore`]: With the rows of earlier runs of the same settings, if there are any.

    Raises:
        `RuntimeError`: If another run is writing to the store that does not fit.
    """
    path = Path(path)
    if (path / "settings.json").exists():
        try:
            stored = read_settings(path)
            differences = stored.differences(settings)
            digest = _digest(stored)
        except ValueError as error:
            differences, digest = [str(error)], "unreadable"
        if differences:
            aside = _unused(path.with_name(f"{path.name}-{digest}"))
            with exclusive_run(path):  # not under the feet of a run that is at work
                path.rename(aside)
            logger.warning(
                f"The scores in {str(path)!r} do not fit this run and are made again; the earlier ones are in "
                f"{str(aside)!r}:\n" + "\n".join(f"  {line}" for line in differences)
            )
    if not path.exists():
        _bring_back(path, settings)
    return AttributionStore(path, settings)


def _bring_back(path: Path, settings: StoreSettings) -> None:
    """Scores of these settings that an earlier run has moved aside."""
    for folder in sorted(path.parent.glob(f"{path.name}-*")):
        try:
            fits = not read_settings(folder).differences(settings)
        except (ValueError, OSError):
            continue
        if fits:
            folder.rename(path)
            return


def _digest(settings: StoreSettings) -> str:
    return hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode()).hexdigest()[:8]


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
