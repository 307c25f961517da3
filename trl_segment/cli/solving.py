"""The part that `evaluate` and `generate` share: a model solves problems."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..progress import progress_bar
from ..traces import TraceConfig
from ..traces.trace import QUESTION_TEMPLATE
from .data import load_splits
from .errors import UserError
from .output import count, say


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..evaluation.generation import DecodingConfig
    from ..evaluation.outputs import OutputFile, Problem


@dataclass
class DecodingArguments:
    """
    How outputs are made.

    Parameters:
        samples (`int`, *optional*, defaults to `1`):
            Outputs per problem.
        temperature (`float`, *optional*, defaults to `0.0`):
            0 is greedy decoding.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling.
        max_new_tokens (`int`, *optional*, defaults to `32768`):
            Length limit of an output.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples.
        batch_size (`int`, *optional*):
            Most outputs made at a time. Defaults to what the memory holds; on CPU 64.
        backend (`str`, *optional*, defaults to `"auto"`):
            What decodes:

            - `"vllm"`: vLLM, the fast way on a GPU.
            - `"continuous"`: the continuous batching of transformers, with CUDA graphs.
            - `"transformers"`: batches of this package, the fast way on a CPU. Each sample has a generator of its own,
              which no batch size or order changes.
            - `"auto"`: the first of these on a GPU if vLLM is installed, the second on a GPU without it, else the
              third; each gives way to the next for a model that it does not take.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print the plan of the run and its cost, and stop. No weight is loaded.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision to load the models in.
        attn_implementation (`str`, *optional*):
            Attention kernel.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
    """

    samples: int = field(default=1, metadata={"help": "Outputs per problem."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy decoding; the paper samples at 0.6."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling, in (0, 1]."})
    max_new_tokens: int = field(default=32768, metadata={"help": "Length limit of an output."})
    seed: int = field(default=0, metadata={"help": "Seed of the samples."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Most outputs made at a time. Default: what the memory holds; on CPU 64."}
    )
    backend: str = field(
        default="auto",
        metadata={
            "help": "Engine that decodes: vLLM, transformers' continuous batching, or batches of this package. "
            "'auto' takes the first of them that is there and fast on this machine.",
            "choices": ["auto", "vllm", "continuous", "transformers"],
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run and its cost, and stop."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Precision of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention kernel."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})

    def __post_init__(self):
        for name in ("samples", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but {getattr(self, name)} was passed.")

    @property
    def decoding(self) -> "DecodingConfig":
        """How outputs are decoded."""
        from ..evaluation.generation import DecodingConfig

        return DecodingConfig(self.max_new_tokens, self.temperature, self.top_p, self.seed)


@dataclass
class ProblemArguments:
    r"""
    How problem sets are read.

    Parameters:
        max_problems (`int`, *optional*):
            Only the first so many problems of each set.
        problems_split (`str`, *optional*):
            Split of a Hub dataset. Defaults to `test`, or the only one.
        question_template (`str`, *optional*):
            User turn made of a question; `{question}` stands for it. Defaults to the paper's, as in training.
        answer_column (`str`, *optional*, defaults to `"answer"`):
            Column with the right answer.
        reasoning_start (`str`, *optional*):
            Opens the reasoning of an output, where that is none of the known forms, as in training.
        reasoning_end (`str`, *optional*):
            Ends the reasoning of an output, where that is none of the known forms.
    """

    max_problems: int | None = field(default=None, metadata={"help": "Only the first so many problems of each set."})
    problems_split: str | None = field(
        default=None, metadata={"help": "Split of a Hub dataset. By default test, or the only one."}
    )
    question_template: str = field(
        default=QUESTION_TEMPLATE, metadata={"help": "User turn made of a question; {question} stands for it."}
    )
    answer_column: str = field(default="answer", metadata={"help": "Column with the right answer."})
    reasoning_start: str | None = field(
        default=None, metadata={"help": "Opens the reasoning of an output, where that is none of the known forms."}
    )
    reasoning_end: str | None = field(
        default=None, metadata={"help": "Ends the reasoning of an output, where that is none of the known forms."}
    )

    def __post_init__(self):
        if self.max_problems is not None and self.max_problems < 1:
            raise ValueError(f"`max_problems` must be at least 1, but {self.max_problems} was passed.")

    @property
    def trace_config(self) -> TraceConfig:
        """How rows are read."""
        return TraceConfig(
            question_template=self.question_template,
            answer_column=self.answer_column,
            reasoning_start=self.reasoning_start,
            reasoning_end=self.reasoning_end,
        )


def load_problems(name: str, args: ProblemArguments):
    """
    Load a problem set, or outputs made elsewhere.

    Args:
        name (`str`):
            File or Hub name.
        args ([`ProblemArguments`]):
            Split and number of rows.

    Returns:
        [`~datasets.Dataset`]: Rows.

    Raises:
        `UserError`: If there is no such split.
    """
    splits = load_splits(name, split="only")
    split = next(iter(splits))
    if len(splits) > 1:
        split = args.problems_split or "test"
        if split not in splits:
            raise UserError(
                f"{name!r} has the splits {', '.join(splits)}, not {split!r}. Choose one with --problems_split."
            )
    rows = splits[split]
    return rows if args.max_problems is None else rows.select(range(min(args.max_problems, len(rows))))


def plan_outputs(
    models: dict[str, str], problems: dict[str, str], args: DecodingArguments, problem_args: ProblemArguments
) -> None:
    """
    Print the number of outputs and their greatest length. No weight is loaded.

    Args:
        models (`dict[str, str]`):
            Label and name of each model or adapter.
        problems (`dict[str, str]`):
            Label and name of each problem set.
        args ([`DecodingArguments`]):
            How many outputs, and how long.
        problem_args ([`ProblemArguments`]):
            How problem sets are read.
    """
    from ..evaluation.outputs import read_problems

    total, decoding = 0, args.decoding
    for label, path in problems.items():
        found = len(read_problems(load_problems(path, problem_args), problem_args.trace_config))
        total += found * args.samples
        say(f"{label}: {count(found, 'problem')} x {count(args.samples, 'output')}")
    how = "greedy" if decoding.temperature == 0 else f"temperature {decoding.temperature:g}"
    say(
        f"{len(models)} x {count(total, 'output')} ({', '.join(models)}), {how}, of at most {args.max_new_tokens:,} "
        f"tokens: {len(models) * total * args.max_new_tokens:,} tokens if none ended before. Outputs that were made "
        "already are not made again. Nothing was loaded or written."
    )


class Engine(NamedTuple):
    """
    A model that is ready to decode.

    Args:
        model ([`~transformers.PreTrainedModel`] or `None`):
            The model, if transformers decodes.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        decode (`Callable` or `None`):
            Another engine.
        settings (`dict[str, Any]`):
            Everything that the outputs depend on.
    """

    model: "PreTrainedModel | None"
    tokenizer: "PreTrainedTokenizerBase"
    decode: Callable | None
    settings: dict[str, Any]


def load_engine(path: str, args: DecodingArguments, decoding: "DecodingConfig") -> Engine:
    """
    Load a model to decode with.

    Args:
        path (`str`):
            Hub name or folder of a model or adapter.
        args ([`DecodingArguments`]):
            How it is loaded.
        decoding ([`~trl_segment.evaluation.generation.DecodingConfig`]):
            How outputs are made.

    Returns:
        [`Engine`]: The model, ready to decode.
    """
    # vLLM has attention kernels of its own
    by_itself = args.backend == "auto" and args.attn_implementation is None and find_spec("vllm") is not None
    if args.backend == "vllm" or by_itself:
        try:
            return _vllm_engine(path, args, decoding)
        except Exception as error:
            if args.backend == "vllm":
                raise
            say(f"vLLM does not take {path} ({_first_line(error)}), so transformers decodes.")
    return _transformers_engine(path, args, decoding)


def _vllm_engine(path, args, decoding) -> Engine:
    from ..evaluation.vllm_backend import VLLMDecoder
    from ..models import load_config, load_tokenizer
    from ..models.inspection import files_fingerprint

    tokenizer = load_tokenizer(
        path, chat_template_path=args.chat_template_path, trust_remote_code=args.trust_remote_code
    )
    decoder = VLLMDecoder(path, tokenizer, decoding, args.batch_size, args.dtype, args.trust_remote_code)
    # vLLM shows no weights. A name of the Hub stands for the commit that it has now.
    files = files_fingerprint(path) if Path(path).is_dir() else getattr(load_config(path), "_commit_hash", None)
    settings = {
        "backend": "vllm",
        "model": path,
        "files": files,
        "dtype": args.dtype,
        "end_ids": sorted(decoder.end_ids),
    }
    return _engine(None, tokenizer, decoder, settings, decoding)


def _transformers_engine(path, args, decoding) -> Engine:
    from ..evaluation.continuous_batching import ContinuousDecoder, has_paged_attention
    from ..evaluation.generation import Request, end_token_ids
    from ..models import load_model
    from ..models.inspection import config_fingerprint, tokenizer_fingerprint, weights_fingerprint

    model, tokenizer = load_model(
        path,
        dtype=args.dtype,
        attn_implementation=args.attn_implementation,
        chat_template_path=args.chat_template_path,
        trust_remote_code=args.trust_remote_code,
        merge_adapter=True,
    )
    ends = end_token_ids(model.generation_config, tokenizer)
    decode = None
    by_itself = args.backend == "auto" and model.device.type == "cuda" and has_paged_attention()
    if args.backend == "continuous" or by_itself:
        try:
            # Which models it takes is best found out with one token
            list(ContinuousDecoder(model, ends, replace(decoding, max_new_tokens=1))([Request("", 0, [min(ends)])]))
            decode = ContinuousDecoder(model, ends, decoding, args.batch_size)
        except Exception as error:
            if args.backend == "continuous":
                raise
            say(f"Continuous batching does not take {path} ({_first_line(error)}), so it decodes in batches.")
    settings = {
        "backend": "transformers" if decode is None else "continuous",
        "weights": weights_fingerprint(model),
        "config": config_fingerprint(model.config),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "end_ids": sorted(ends),
        "dtype": str(model.dtype),
    }
    return _engine(model, tokenizer, decode, settings, decoding)


def _engine(model, tokenizer, decode, settings, decoding) -> Engine:
    from ..evaluation.outputs import special_marks

    # Outputs of an earlier version lack them
    marks = special_marks(tokenizer)
    kept = {"special_marks": marks} if marks else {}
    return Engine(model, tokenizer, decode, {**settings, **kept, **asdict(decoding)})


def _first_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()[:30])


def solve(
    problems: "list[Problem]",
    engine: Engine,
    decoding: "DecodingConfig",
    args: DecodingArguments,
    file: "OutputFile",
    description: str,
) -> list[list[dict]]:
    """
    Let a model solve problems, with a bar.

    Args:
        problems (`list[Problem]`):
            Problems.
        engine ([`Engine`]):
            The model.
        decoding ([`~trl_segment.evaluation.generation.DecodingConfig`]):
            How outputs are made.
        args ([`DecodingArguments`]):
            How many, and how many at a time.
        file ([`~trl_segment.evaluation.outputs.OutputFile`]):
            Takes the outputs; those that it has are not made again.
        description (`str`):
            Text in front of the bar.

    Returns:
        `list[list[dict]]`: Records by problem and sample.
    """
    from ..evaluation.outputs import solve_problems

    total = len(problems) * args.samples
    known = sum(record["sample"] < args.samples for record in file.records.values())
    with _bar(total, min(known, total), description) as (on_step, on_output):
        return solve_problems(
            problems,
            engine.model,
            engine.tokenizer,
            decoding,
            args.samples,
            file,
            args.batch_size,
            on_step,
            on_output,
            engine.decode,
        )


@contextmanager
def _bar(total, known, description) -> Iterator[tuple[Callable[[int], None], Callable[[dict], None]]]:
    """A bar over outputs, and the functions that move it at each step and each output."""
    started, tokens = time.monotonic(), 0
    with progress_bar(None, description, unit="output", total=total, initial=known) as bar:

        def on_step(made):
            nonlocal tokens
            tokens += made
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s", refresh=False)

        yield on_step, lambda record: bar.update()
