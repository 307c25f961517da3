"""`trl-segment export`: the selection for other trainers."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..selection import SelectionConfig
from .arguments import DatasetArguments, LoadingArguments, StoreArguments
from .errors import UserError
from .options import Command, Group
from .output import count, note, reasons, say
from .start import start


# Function of `trainer/export.py` that writes a row
FORMATS = {"labels": "labels_row", "axolotl": "axolotl_row", "ms-swift": "ms_swift_row", "weights": "weights_row"}
# Formats that other trainers make tokens of
_MESSAGES = ("axolotl", "ms-swift")
# Options that are the trainer's own
_OF_TRAINING = (
    "completion_rendering",
    "completion_only_loss",
    "assistant_only_loss",
    "max_length",
    "truncation_mode",
    "eos_token",
    "kept_weight",
    "dropped_weight",
)


@dataclass
class ExportArguments:
    """
    Arguments of `trl-segment export` besides those of the tokenizer, the dataset, the store and the selection.

    Parameters:
        format (`str`, *optional*, defaults to `"labels"`):
            Form of the rows:

            - `"labels"`: `input_ids`, `attention_mask` and `labels`, for TRL, Unsloth, Axolotl and LLaMA-Factory.
            - `"axolotl"`: messages whose content is parts with `train`, for Axolotl's `type: chat_template`.
            - `"ms-swift"`: consecutive assistant messages with `loss_scale`, for ms-swift 4.2 and later.
            - `"weights"`: `input_ids`, `attention_mask` and `weights`, one number a token, for verl and Tinker.
        output (`str`, *optional*):
            File to write (`.jsonl`, or `.parquet` for formats of tokens), or for formats of tokens a folder as
            `datasets.load_from_disk` reads it. It must not exist.
        completion_rendering (`str`, *optional*, defaults to `"auto"`):
            See [`~trl_segment.SegmentSelectiveSFTConfig`]. Formats of messages are rendered by the chat template.
        completion_only_loss (`bool`, *optional*):
            See [`~trl.SFTConfig`].
        assistant_only_loss (`bool`, *optional*, defaults to `False`):
            See [`~trl.SFTConfig`].
        max_length (`int`, *optional*):
            Tokens of a row to keep, for formats of tokens. Unlike in training, where TRL keeps 1,024, nothing is cut
            by default: the other trainer has a limit of its own.
        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            See [`~trl.SFTConfig`].
        eos_token (`str`, *optional*):
            Token that ends a turn, in place of the tokenizer's. See [`~trl.SFTConfig`].
        kept_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the tokens of kept segments, for `"weights"`. Tokens outside the reasoning weigh 1.
        dropped_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the tokens of dropped segments, for `"weights"`.
    """

    format: str = field(default="labels", metadata={"help": "Form of the rows.", "choices": list(FORMATS)})
    output: str | None = field(
        default=None, metadata={"help": "File (.jsonl, .parquet) or folder to write. It must not exist."}
    )
    completion_rendering: str = field(
        default="auto",
        metadata={
            "help": "How a conversational example becomes text, as in training.",
            "choices": ["auto", "template", "verbatim"],
        },
    )
    completion_only_loss: bool | None = field(
        default=None, metadata={"help": "Whether the loss is on the completion only, as in training."}
    )
    assistant_only_loss: bool = field(
        default=False, metadata={"help": "Whether the loss is on assistant turns only, as in training."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens of a row to keep, for formats of tokens. By default all of them."}
    )
    truncation_mode: str = field(
        default="keep_start",
        metadata={"help": "Which tokens of a longer row are kept.", "choices": ["keep_start", "keep_end"]},
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "Token that ends a turn, in place of the tokenizer's."}
    )
    kept_weight: float = field(default=1.0, metadata={"help": "Weight of kept segments, for 'weights'."})
    dropped_weight: float = field(default=0.0, metadata={"help": "Weight of dropped segments, for 'weights'."})

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"`max_length` must be at least 1, but {self.max_length} was passed.")


# Only the tokenizer of a model is loaded
_OF_WEIGHTS = (
    "attn_implementation",
    "load_in_8bit",
    "load_in_4bit",
    "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
    "bnb_4bit_quant_storage",
)

COMMAND = Command(
    "export",
    "Write the selected segments in the form that another trainer reads.",
    (
        Group("format and output", ExportArguments),
        Group("model that is to be trained: only its tokenizer is loaded", LoadingArguments, without=_OF_WEIGHTS),
        Group("dataset", DatasetArguments),
        Group("store", StoreArguments),
        Group("selection", SelectionConfig),
    ),
    examples=(
        "trl-segment export --model_name_or_path MODEL --dataset_name traces.jsonl --attributions scores "
        "--format labels --output labels.parquet",
    ),
)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = start(COMMAND, argv)
    args, model_args, data_args, store_args, selection = parser.parse(argv)
    parser.require("output", args.output, "the file or folder to write")
    parser.require("model_name_or_path", model_args.model_name_or_path, "the model that is to be trained")
    if args.format in _MESSAGES:
        parser.refuse(
            {"completion_rendering", "max_length", "truncation_mode", "eos_token"},
            f"with --format {args.format}: the other trainer renders the chat template and cuts by itself",
        )
    if args.format != "weights":
        parser.refuse({"kept_weight", "dropped_weight"}, f"with --format {args.format}")
    output = _check_output(args)
    from ..models import load_tokenizer
    from ..progress import progress_bar
    from ..store import open_store
    from ..trainer import export
    from .data import load_train_split

    store = open_store(store_args.attributions)
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        model_args.model_revision,
        model_args.chat_template_path,
        model_args.trust_remote_code,
    )
    dataset = load_train_split(data_args)
    refused: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    totals: Counter[str] = Counter()
    write_row = getattr(export, FORMATS[args.format])
    with tempfile.TemporaryDirectory() as folder:
        training_args = export.export_args(
            folder,
            **{name: getattr(args, name) for name in _OF_TRAINING},
            **{**asdict(store.settings.trace_config(store_args.segmenter)), **asdict(selection)},
            dataset_text_field=data_args.dataset_text_field,
            dropped_segments="weight" if args.format == "weights" else "mask",
        )
        if args.format in _MESSAGES:
            # The other trainer renders the messages, and cuts by itself
            training_args.completion_rendering, training_args.max_length = "template", None
        rows = export.labeled_rows(dataset, tokenizer, training_args, store, refused)

        def records() -> Iterator[dict[str, Any]]:
            for row in progress_bar(rows, "Exporting", total=len(dataset)):
                try:
                    record, note = write_row(row, tokenizer)
                except export.RowRefusedError as error:
                    refused.setdefault(str(error), []).append(row.name)
                    continue
                if note is not None:
                    notes.setdefault(note, []).append(row.name)
                totals.update(rows=1, trained=int((row.weights > 0).sum()), tokens=len(row.weights))
                yield record

        written = _write(records(), output)
    if refused:
        say("Rows refused:", *reasons(refused))
    if not written:
        raise UserError(f"no row can be written as {args.format!r}, so {args.output} was not made.")
    left_out = sum(map(len, refused.values()))
    note(
        f"{count(totals['rows'], 'row')} in {args.output}, {totals['trained']:,} of "
        f"{count(totals['tokens'], 'token')} trained; {count(left_out, 'row')} refused."
    )
    if notes:
        say("To know:", *reasons(notes))


def _check_output(args) -> Path:
    """Refuse a name that cannot be written, before the work begins."""
    output = Path(args.output)
    if output.suffix not in ("", ".jsonl", ".parquet"):
        raise UserError(f"--output {args.output}: choose a name that ends in .jsonl or .parquet, or a folder's.")
    if args.format in _MESSAGES and output.suffix != ".jsonl":
        raise UserError(f"--format {args.format} is written as lines of JSON: choose a name that ends in .jsonl.")
    if os.path.lexists(output):
        raise UserError(f"{args.output} is there already. Choose another name with --output, or remove it.")
    return output


def _write(records: Iterator[dict[str, Any]], output: Path) -> bool:
    """Write rows under another name until all are there. Whether there was a row."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        made = Path(folder) / "rows"
        write = _write_lines if output.suffix == ".jsonl" else _write_parquet
        if not write(records, made):
            return False
        if not output.suffix:
            from datasets import Dataset

            rows = Dataset.from_parquet(str(made), cache_dir=os.path.join(folder, "cache"))
            made = Path(folder) / "saved"
            rows.save_to_disk(made)
        if os.path.lexists(output):
            raise UserError(f"{output} was made by something else meanwhile. Choose another name with --output.")
        shutil.move(made, output)
    return True


def _write_lines(records, path) -> bool:
    empty = True
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            empty = False
    return not empty


def _write_parquet(records, path) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    types = {"input_ids": pa.int32(), "attention_mask": pa.int8(), "labels": pa.int64(), "weights": pa.float32()}
    writer = None
    while some := list(islice(records, 256)):
        schema = pa.schema([(name, pa.list_(types[name])) for name in some[0]])
        writer = writer or parquet.ParquetWriter(path, schema)
        writer.write_table(pa.Table.from_pylist(some, schema))
    if writer is None:
        return False
    writer.close()
    return True


if __name__ == "__main__":
    from .main import run

    run("export", main)
