"""
Outputs of a model on problems: kept in a JSONL file as they are made, graded from it.

A line of the file is a dataset row (`id`, `question`, `solution`, `answer`) with what is known about the output
(`sample`, `tokens`, `cut_off`), so that the file can be graded again, or attributed, like any other.
"""

import functools
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..printing import get_logger
from ..store.files import write_atomically
from ..store.journal import lock
from ..store.regular import check_regular
from ..traces import KNOWN_MARKS, Trace, TraceConfig, build_trace, row_name
from ..traces.alignment import render_prompt
from .generation import DecodingConfig, Output, Request, end_token_ids, generate_outputs
from .grading import Grader
from .metrics import Graded


logger = get_logger(__name__)


@dataclass(frozen=True)
class Problem:
    """
    A problem to solve.

    Args:
        id (`str`):
            Its name, unique in its set.
        question (`str`):
            Its text, without the instruction to the model.
        answer (`str`):
            The right answer.
        trace ([`~trl_segment.traces.Trace`]):
            Holds the prompt as training and attribution have it.
    """

    id: str
    question: str
    answer: str
    trace: Trace


def read_problems(rows: Iterable[Mapping[str, Any]], config: TraceConfig | None = None) -> list[Problem]:
    """
    Read problems from dataset rows.

    Args:
        rows (`Iterable[Mapping]`):
            Rows with `question` (or `problem`) and the answer column, or with `prompt` and it. `id` names a row; rows
            without one are numbered. A `solution` that a row brings along is not looked at.
        config ([`~trl_segment.TraceConfig`], *optional*):
            `question_template` and `answer_column`.

    Returns:
        `list[Problem]`: In the order of the rows.

    Raises:
        `ValueError`: If there is no row, a row has no answer, or two rows have the same `id`.
    """
    config = config or TraceConfig()
    problems, seen = [], set()
    for index, row in enumerate(rows):
        name = row_name(row, index)
        row = {key: value for key, value in row.items() if key not in ("solution", "completion", "messages")}
        ending = {"completion": ""} if row.get("prompt") is not None else {"solution": ""}
        trace = build_trace({**row, **ending}, config)
        if not trace.answer:
            raise ValueError(
                f"Problem {name!r} has no answer in the column {config.answer_column!r}, so outputs cannot be graded. "
                "Name the column with `answer_column`."
            )
        question = row.get("question") or row.get("problem")
        if not trace.prompt or (row.get("prompt") is None and not question):
            raise ValueError(
                f"Problem {name!r} has no text: its 'question' (or 'problem', or 'prompt') is empty. Correct the row, "
                "or filter it out."
            )
        if name in seen:
            raise ValueError(f"Two problems have the id {name!r}. Give each its own `id`, or leave the column out.")
        seen.add(name)
        if not isinstance(question, str):
            question = trace.prompt if isinstance(trace.prompt, str) else str(trace.prompt[-1].get("content", ""))
        problems.append(Problem(name, question, trace.answer, trace))
    if not problems:
        raise ValueError("There is no problem in the file.")
    return problems


class OutputFile:
    """
    Outputs in a JSONL file, with what made them in a `.settings.json` beside it.

    Args:
        path (`str` or `os.PathLike`):
            The JSONL file. Outputs that it holds already are not made again. A line that a killed run left half
            written is cut off. It is locked until [`~OutputFile.close`], or the end of the `with` that this stands in.
        settings (`dict`):
            What changes outputs: model, decoding.
        key (`tuple[str, ...]`, *optional*):
            Which fields tell records apart. Defaults to problem, sample and hash of the prompt.

    Raises:
        `ValueError`: If the file was made with other settings, or not by this package.
        `RuntimeError`: If another run is writing to it.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: dict[str, Any],
        key: tuple[str, ...] = ("id", "sample", "prompt"),
    ):
        self.path = Path(path)
        self.key = key
        self.path.parent.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))
        settings_file = self.path.with_suffix(".settings.json")
        for file in (self.path, settings_file):
            if file.exists():
                check_regular(file)
        if self.path.exists() and self.path.stat().st_size:
            self._check_settings(settings_file, settings)
        elif settings_file.exists() and not _has_keys(settings_file, settings):
            raise ValueError(
                f"{str(settings_file)!r} would be overwritten, and was not made by this package. It stays as it is. "
                "Choose another name for what is to be written."
            )
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        if lock(self._file.fileno()) is False:
            raise RuntimeError(
                f"Another run is writing to {str(self.path)!r}. Wait until it has ended and start again (what it has "
                "made is not made again), or choose another folder."
            )
        write_atomically(settings_file, json.dumps(settings, indent=2).encode())
        self.records = self._read()

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs write to the file. Records can still be read."""
        self._file.close()

    def _check_settings(self, settings_file, settings):
        """That what is there was made by a run like this one: it is about to be added to, and cut where it is torn."""
        try:
            stored = json.loads(settings_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None
        if not isinstance(stored, dict):
            raise ValueError(
                f"{str(self.path)!r} was not made by this package: there is no {settings_file.name!r} beside it that "
                "says how. It stays as it is. Choose another name for what is to be written."
            )
        different = [
            f"  {key}: then {stored.get(key)!r}, now {settings.get(key)!r}"
            for key in sorted({*stored, *settings})
            if stored.get(key) != settings.get(key)
        ]
        if different:
            raise ValueError(
                f"The outputs in {str(self.path)!r} were made with other settings:\n" + "\n".join(different) + "\n"
                "Choose another `output_dir`, another name for the model, or delete the file."
            )

    def _read(self) -> dict[tuple, dict]:
        records, whole, damaged = {}, 0, 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    record = json.loads(line)
                    if record.pop("checksum") != _checksum(record):
                        raise ValueError("not what was written")
                    records[tuple(record[name] for name in self.key)] = record
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    damaged += 1
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        if damaged:
            logger.warning(
                f"{damaged} lines of {str(self.path)!r} are not what was written; what they held is made again."
            )
        return records

    def append(self, record: dict) -> None:
        """
        Add an output; it outlives this process when this returns.

        Args:
            record (`dict`):
                With the fields of `key` among others.
        """
        line = json.dumps({**record, "checksum": _checksum(record)}, ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "surrogatepass"))
        self.records[tuple(record[name] for name in self.key)] = record


def _has_keys(file: Path, settings: dict[str, Any]) -> bool:
    """Whether a file holds settings of the same names."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(stored, dict) and stored.keys() == settings.keys()


def _checksum(record: dict) -> str:
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"


def solve_problems(
    problems: Sequence[Problem],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: DecodingConfig,
    samples: int = 1,
    file: OutputFile | None = None,
    batch_size: int | None = None,
    on_step: Callable[[int], None] | None = None,
    on_output: Callable[[dict], None] | None = None,
    decode: Callable[[Sequence[Request]], Iterator[Output]] | None = None,
) -> list[list[dict]]:
    """
    Let a model solve problems.

    Args:
        problems (`Sequence[Problem]`):
            See [`read_problems`].
        model ([`~transformers.PreTrainedModel`]):
            Causal language model. `None` if `decode` is given.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`DecodingConfig`]):
            How to decode.
        samples (`int`, *optional*, defaults to `1`):
            Outputs per problem.
        file ([`OutputFile`], *optional*):
            Outputs are added to it as they end, and those it has are not made again.
        batch_size (`int`, *optional*):
            Outputs made at a time. Defaults to what the memory holds, see
            [`~trl_segment.evaluation.generation.planned_batch_size`].
        on_step, on_output (`Callable`, *optional*):
            Called with the number of tokens of a step, and with each finished record.
        decode (`Callable`, *optional*):
            Another engine: from requests to outputs as they end.

    Returns:
        `list[list[dict]]`: Records by problem and sample.

    Raises:
        `ValueError`: If several outputs per problem are asked for in greedy decoding: they would all be the same.
    """
    if samples > 1 and config.temperature == 0:
        raise ValueError(
            f"{samples} outputs per problem at temperature 0 would all be the same. Set a temperature (the paper "
            "samples at 0.6), or one sample."
        )
    records: dict[tuple[str, int, str], dict] = dict(file.records) if file is not None else {}
    requests, hashes, by_id = [], {}, {problem.id: problem for problem in problems}
    for problem in problems:
        text = render_prompt(problem.trace, tokenizer)
        plain = isinstance(problem.trace.prompt, str)
        ids = tokenizer(text, add_special_tokens=plain)["input_ids"]
        hashes[problem.id] = hashlib.sha256(text.encode()).hexdigest()[:16]
        for sample in range(samples):
            if (problem.id, sample, hashes[problem.id]) not in records:
                requests.append(Request(problem.id, sample, ids))

    if decode is None and requests:
        decode = functools.partial(
            generate_outputs,
            model,
            end_ids=end_token_ids(model.generation_config, tokenizer),
            config=config,
            batch_size=batch_size,
            on_step=on_step,
        )
    for output in decode(requests) if requests else ():
        problem = by_id[output.id]
        record = {
            "id": output.id,
            "sample": output.sample,
            "question": problem.question,
            "solution": decode_output(tokenizer, output.token_ids),
            "answer": problem.answer,
            "tokens": output.tokens,
            "cut_off": output.cut_off,
            "prompt": hashes[output.id],
        }
        records[record["id"], record["sample"], record["prompt"]] = record
        if file is not None:
            file.append(record)
        if on_output is not None:
            on_output(record)
    # The question and the answer are those of the problem as it now is: they may have been corrected since
    return [
        [
            {**records[p.id, sample, hashes[p.id]], "question": p.question, "answer": p.answer}
            for sample in range(samples)
        ]
        for p in problems
    ]


def special_marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    The tokens that marks of reasoning are made of and that a tokenizer holds for special ones, which decoding skips.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.

    Returns:
        `list[str]`: Their texts, sorted; those that pad, begin or end a text are not among them.
    """
    ends = {tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token}
    special = [token for token in set(tokenizer.all_special_tokens) - ends if token.strip()]
    marks = [text for marks in KNOWN_MARKS for text in (marks.start, marks.end, marks.closing) if text]
    return sorted(token for token in special if any(token in mark for mark in marks))


def decode_output(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """
    The text of an output without special tokens, but with the marks of its reasoning.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        token_ids (`Sequence[int]`):
            What the model wrote.

    Returns:
        `str`: The text.
    """
    plain = tokenizer.decode(token_ids, skip_special_tokens=True)
    kept = set(tokenizer.convert_tokens_to_ids(special_marks(tokenizer)))
    if kept.isdisjoint(token_ids):
        return plain
    skipped = set(tokenizer.all_special_ids) - kept
    text = tokenizer.decode([token for token in token_ids if token not in skipped], skip_special_tokens=False)
    # Parts of marks, as the beginning of a chat's turn is one of s1K's, are no marks alone
    marks = [str(mark) for known in KNOWN_MARKS for mark in (known.start, None if known.pair else known.end) if mark]
    return text if any(text.count(mark) > plain.count(mark) for mark in marks) else plain


def evaluate_outputs(records: Sequence[Sequence[dict]], grader: Grader) -> tuple[Graded, list[dict]]:
    """
    Grade the outputs of one model on one problem set.

    Args:
        records (`Sequence[Sequence[dict]]`):
            Records by problem and sample: `id`, `solution`, `answer`, and `tokens` and `cut_off` where known. Every
            problem has as many.
        grader ([`Grader`]):
            Grades.

    Returns:
        `tuple[Graded, list[dict]]`: For the figures, and a row per output: `id`, `sample`, `correct`, `verdict`,
        `extracted`, `error`, `tokens`, `cut_off`.
    """
    rows, verdicts = [], []
    for group in records:
        grades = [grader.grade(record["solution"], record["answer"]) for record in group]
        verdicts.append([grade.verdict for grade in grades])
        rows += [
            {
                "id": record["id"],
                "sample": record.get("sample", 0),
                "correct": grade.correct,
                "verdict": grade.verdict,
                "extracted": grade.answer,
                "error": grade.error,
                "tokens": record.get("tokens"),
                "cut_off": record.get("cut_off"),
            }
            for record, grade in zip(group, grades, strict=True)
        ]

    def array(name, dtype):
        values = [[record.get(name) for record in group] for group in records]
        return None if any(v is None for group in values for v in group) else np.array(values, dtype=dtype)

    graded = Graded(
        ids=[group[0]["id"] for group in records],
        correct=np.array([[verdict == "correct" for verdict in group] for group in verdicts]),
        verdicts=verdicts,
        tokens=array("tokens", np.int64),
        cut_off=array("cut_off", bool),
    )
    return graded, rows


def pick_solutions(
    records: Sequence[Sequence[dict]], correct: np.ndarray, pick: str = "shortest"
) -> tuple[list[dict], list[str]]:
    """
    Choose a model's own correct solutions to train on.

    Args:
        records (`Sequence[Sequence[dict]]`):
            Records by problem and sample, with `tokens` and `cut_off`.
        correct (`np.ndarray`):
            Whether each is right, shape (problems, samples).
        pick (`str`, *optional*, defaults to `"shortest"`):
            `"shortest"`: of each problem the correct solution with the fewest tokens, the first of several (the
            paper's own-traces recipe). `"all"`: every different correct solution.

    Returns:
        `tuple[list[dict], list[str]]`: Rows with `id`, `question`, `solution`, `answer`, `tokens`; and the problems
        that have no correct solution. One that was cut off is never chosen: it would teach a model not to end.
    """
    chosen, without = [], []
    for group, right in zip(records, correct, strict=True):
        usable = [record for record, ok in zip(group, right, strict=True) if ok and not record["cut_off"]]
        if not usable:
            without.append(group[0]["id"])
        elif pick == "shortest":
            chosen.append((group[0]["id"], min(usable, key=lambda record: record["tokens"])))
        else:
            different = list({record["solution"]: record for record in reversed(usable)}.values())[::-1]
            chosen += [(f"{record['id']}-{record['sample']}", record) for record in different]
    columns = ("question", "solution", "answer", "tokens")
    return [{"id": name, **{column: record[column] for column in columns}} for name, record in chosen], without
