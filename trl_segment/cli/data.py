"""Load the dataset that a command line names."""

from pathlib import Path
from typing import TYPE_CHECKING

from datasets import DatasetDict, load_dataset
from trl import get_dataset


if TYPE_CHECKING:
    from trl import DatasetMixtureConfig, ScriptArguments


_FILE_TYPES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def load_splits(script_args: "ScriptArguments", mixture: "DatasetMixtureConfig | None" = None) -> DatasetDict:
    """
    Load what `--dataset_name` or a `datasets` mixture names.

    Args:
        script_args ([`~trl.ScriptArguments`]):
            `dataset_name` is a Hub name, a folder, or a file (`.jsonl`, `.json`, `.csv`, `.parquet`).
        mixture ([`~trl.DatasetMixtureConfig`], *optional*):
            Takes precedence if it lists datasets.

    Returns:
        [`~datasets.DatasetDict`]: The splits; a file is the split that `dataset_train_split` names.

    Raises:
        `ValueError`: If neither names a dataset.
    """
    if mixture is not None and mixture.datasets:
        return get_dataset(mixture)
    name = script_args.dataset_name
    if not name:
        raise ValueError("No dataset: pass `--dataset_name` with a Hub name, a folder or a file.")
    if Path(name).is_file() and Path(name).suffix in _FILE_TYPES:
        dataset = load_dataset(
            _FILE_TYPES[Path(name).suffix], data_files=name, split="train", streaming=script_args.dataset_streaming
        )
        return DatasetDict({script_args.dataset_train_split: dataset})
    return load_dataset(name, name=script_args.dataset_config, streaming=script_args.dataset_streaming)


def load_train_split(script_args: "ScriptArguments"):
    """
    Load the training split.

    Args:
        script_args ([`~trl.ScriptArguments`]):
            See [`load_splits`].

    Returns:
        [`~datasets.Dataset`]: The split.

    Raises:
        `ValueError`: If the dataset has no such split, or it is empty.
    """
    splits = load_splits(script_args)
    split = script_args.dataset_train_split
    if split not in splits:
        raise ValueError(
            f"{script_args.dataset_name!r} has no split {split!r}, only {', '.join(splits)}. Set "
            "`--dataset_train_split`."
        )
    if not script_args.dataset_streaming and len(splits[split]) == 0:
        raise ValueError(f"The split {split!r} of {script_args.dataset_name!r} is empty.")
    return splits[split]
