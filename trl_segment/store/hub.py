"""Attribution stores as datasets on the Hub."""

import json
import os
import re
from typing import Any

from ..printing import get_logger
from .files import ARRAY_NAME, PART_NAME
from .regular import check_regular
from .store import AttributionStore


logger = get_logger(__name__)

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

_TITLE = "# Segment attributions"
_CARD = """\
---
tags:
- trl-segment
configs:
- config_name: default
  data_files: "*.arrow"
---

# Segment attributions

How strongly, and in which direction, each segment of a reasoning moved the log-probability of the right answer
([arXiv 2602.00425](https://arxiv.org/abs/2602.00425)). Traces: {traces:,}. Every row has the numbers of one trace, its
name and a hash of its text, but not the text. To train on the same traces without attributing them again:

```bash
trl-segment sft --attributions {repo_id} --model_name_or_path ... --dataset_name ... --max_length ...
```

Made with:

```json
{settings}
```
"""


def push_store(store_path: str | os.PathLike, repo_id: str, **hub_kwargs: Any) -> str:
    """
    Push an attribution store to a dataset repository, in one commit.

    The store takes the place of one that the repository holds: rows of two stores never mix. Files that are no store's
    stay as they are, a README of yours among them.

    Args:
        store_path (`str` or `os.PathLike`):
            Folder of the store.
        repo_id (`str`):
            Name of the dataset on the Hub, created if there is none.
        **hub_kwargs:
            `token`, and `private` for a repository that is created; everything else goes to
            [`~huggingface_hub.HfApi.create_commit`] (`revision`, `commit_message`, `create_pr`, ...).

    Returns:
        `str`: URL of the commit.

    Raises:
        `FileNotFoundError`: If there is no store in the folder.
        `ValueError`: If it holds no trace.
        `RuntimeError`: If a run is writing to it.
    """
    # Slow to import, and a store in a folder does without the Hub
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    store = AttributionStore(store_path)
    store.compact()
    if any(store.path.glob("journal-*")):
        raise RuntimeError(
            f"A run is still adding to the attribution store at {os.fspath(store_path)!r}. Push it when it has ended."
        )
    if len(store) == 0:
        raise ValueError(
            f"The attribution store at {os.fspath(store_path)!r} holds no trace, so there is nothing to push. Run "
            "`trl-segment attribute` with this folder as `--attributions` first."
        )
    api = HfApi(token=hub_kwargs.pop("token", None))
    repo_id = api.create_repo(
        repo_id, repo_type="dataset", private=hub_kwargs.pop("private", None), exist_ok=True
    ).repo_id
    names = sorted(file.name for file in store.path.iterdir() if _is_part_of_store(file.name))
    settings = json.dumps(store.settings.describe(), indent=2, ensure_ascii=False)
    card = _CARD.format(traces=len(store), repo_id=repo_id, settings=settings)
    revision = hub_kwargs.get("revision")
    there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
    stale = [name for name in there if _is_part_of_store(name) and name not in names]
    cards = [CommitOperationAdd("README.md", card.encode())]
    if "README.md" in there:
        path = api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision)
        if _TITLE not in check_regular(path).read_text(encoding="utf-8", errors="replace"):
            logger.warning(f"The README.md of {repo_id!r} is not one that was pushed with a store. It stays as it is.")
            cards = []
    commit = api.create_commit(
        repo_id,
        repo_type="dataset",
        operations=[
            *cards,
            *(CommitOperationAdd(name, store.path / name) for name in names),
            *(CommitOperationDelete(name) for name in stale),
        ],
        **{"commit_message": f"Attributions of {len(store):,} traces", **hub_kwargs},
    )
    return commit.commit_url


def fetch_store(repo_id: str, **hub_kwargs: Any) -> str:
    """
    Download an attribution store that [`push_store`] pushed.

    Args:
        repo_id (`str`):
            Name of the dataset on the Hub.
        **hub_kwargs:
            Passed to [`~huggingface_hub.snapshot_download`] (`revision`, `token`, `cache_dir`, ...).

    Returns:
        `str`: Folder to open with [`AttributionStore`], for reading: it belongs to the Hub's cache.

    Raises:
        `FileNotFoundError`: If there is no such dataset, or it is not a store.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = snapshot_download(repo_id, repo_type="dataset", allow_patterns=["*.json", "*.arrow"], **hub_kwargs)
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"There is no attribution store at {repo_id!r}: neither a local folder nor a dataset that can be read "
            f"from the Hub ({type(error).__name__}). Check the name and the connection, log in with `hf auth login` "
            "if the dataset is private, or make a store with `trl-segment attribute`."
        ) from error
    if not os.path.exists(os.path.join(path, "settings.json")):
        raise FileNotFoundError(
            f"The dataset {repo_id!r} is not an attribution store (it has no settings.json). Pass one that was pushed "
            "with `push_store`; the traces themselves go to `dataset_name`."
        )
    return path


def open_store(name: str | os.PathLike) -> AttributionStore:
    """
    Open a store for reading, wherever it is.

    Args:
        name (`str` or `os.PathLike`):
            Folder, or name of a dataset on the Hub if there is no such folder.

    Returns:
        [`AttributionStore`]: The store.

    Raises:
        `FileNotFoundError`: If there is none.
    """
    if not os.path.isdir(name) and _REPO_ID.fullmatch(os.fspath(name)):
        return AttributionStore(fetch_store(os.fspath(name)))
    return AttributionStore(name)


def _is_part_of_store(name: str) -> bool:
    """Whether a store has written it: names of our own alone, not the stores of later epochs in folders below."""
    return name == "settings.json" or any(pattern.fullmatch(name) for pattern in (ARRAY_NAME, PART_NAME))
