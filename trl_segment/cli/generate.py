"""`trl-segment generate`: a model's own correct solutions as a dataset of traces (the paper's own-traces recipe)."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError
from .options import Command, Group
from .output import count, note, say, some_of
from .solving import DecodingArguments, ProblemArguments, load_engine, load_problems, plan_outputs, solve
from .start import start


@dataclass
class GenerateArguments:
    """
    Arguments of `trl-segment generate` besides those of decoding and of the problem set.

    Parameters:
        model_name_or_path (`str`, *optional*):
            Model or PEFT adapter that solves the problems.
        problems (`str`, *optional*):
            Problem set: a file or a Hub name, with `question` (or `problem`) and an answer column.
        dataset (`str`, *optional*, defaults to `"traces.jsonl"`):
            File for the chosen solutions, rows with `id`, `question`, `solution`, `answer`. Every output is kept
            beside it, in `traces.outputs.jsonl` (for other endings than `.jsonl` in `<dataset>-outputs.jsonl`), and a
            killed run goes on from there.
        pick (`str`, *optional*, defaults to `"shortest"`):
            Which of a problem's correct solutions: the `"shortest"` in tokens (the paper's), or `"all"` that differ.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model or PEFT adapter that solves the problems."}
    )
    problems: str | None = field(
        default=None, metadata={"help": "Problem set: file or Hub name with `question` and an answer column."}
    )
    dataset: str = field(
        default="traces.jsonl", metadata={"help": "File for the chosen solutions; all outputs are kept beside it."}
    )
    pick: str = field(
        default="shortest",
        metadata={
            "help": "Which correct solutions of a problem: the shortest, or all.",
            "choices": ["shortest", "all"],
        },
    )


@dataclass
class SamplingArguments(DecodingArguments):
    """
    How solutions are sampled. Extends [`~trl_segment.cli.solving.DecodingArguments`].

    Parameters:
        samples (`int`, *optional*, defaults to `4`):
            Solutions to sample per problem.
        temperature (`float`, *optional*, defaults to `0.6`):
            Temperature of the samples.
    """

    samples: int = field(default=4, metadata={"help": "Solutions to sample per problem."})
    temperature: float = field(default=0.6, metadata={"help": "Temperature of the samples."})


COMMAND = Command(
    "generate",
    "Sample solutions and keep the shortest correct one of each problem.",
    (
        Group("model, problems and output", GenerateArguments),
        Group("problems", ProblemArguments),
        Group("decoding", SamplingArguments),
    ),
    examples=(
        "trl-segment generate --model_name_or_path MODEL --problems problems.jsonl --samples 8 --dataset own.jsonl",
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
    args, problem_args, decoding_args = parser.parse(argv)
    parser.require("model_name_or_path", args.model_name_or_path, "the model that solves the problems")
    parser.require("problems", args.problems, "the problem set to solve")
    if decoding_args.backend == "vllm":
        parser.refuse({"attn_implementation"}, f"on --backend {decoding_args.backend}")
    if decoding_args.dry_run:
        models, problems = {args.model_name_or_path: args.model_name_or_path}, {args.problems: args.problems}
        plan_outputs(models, problems, decoding_args, problem_args)
        return
    from ..evaluation import Grader
    from ..evaluation.outputs import OutputFile, evaluate_outputs, pick_solutions, read_problems

    dataset, outputs, decoding = Path(args.dataset), _outputs_of(args), decoding_args.decoding
    problems = read_problems(load_problems(args.problems, problem_args), problem_args.trace_config)
    engine = load_engine(args.model_name_or_path, decoding_args, decoding)
    with OutputFile(outputs, engine.settings) as file:
        records = solve(problems, engine, decoding, decoding_args, file, "Solving")
    with Grader(marks=problem_args.trace_config.marks) as grader:
        graded, _ = evaluate_outputs(records, grader)
    chosen, without = pick_solutions(records, graded.correct, args.pick)
    if chosen:
        _write_rows(dataset, chosen)
    note(
        f"{count(len(problems), 'problem')}, {int(graded.correct.sum())} of "
        f"{count(graded.correct.size, 'output')} correct, {int(graded.cut_off.sum())} cut off.",
        f"{count(len(chosen), 'trace')} of {count(len(problems) - len(without), 'problem')} in {args.dataset}."
        if chosen
        else f"All outputs are in {outputs}.",
    )
    if without:
        say(f"{count(len(without), 'problem')} without a correct solution left out: {some_of(without, 10)}")
    if len(without) == len(problems):
        raise UserError(f"no problem has a correct solution, so {args.dataset} was not written.")


def _outputs_of(args) -> Path:
    """Where all outputs are kept; refuses to write over what an earlier run of this command has not made."""
    dataset = Path(args.dataset)
    # Of two datasets that differ in their ending alone, each has its own
    jsonl = dataset.suffix == ".jsonl"
    outputs = dataset.with_name(f"{dataset.stem}.outputs.jsonl" if jsonl else f"{dataset.name}-outputs.jsonl")
    for path in (dataset, outputs):
        if path.exists() and Path(args.problems).exists() and path.samefile(args.problems):
            raise UserError(f"--dataset {args.dataset} would take the place of the problem set. Choose another name.")
    if dataset.exists() and not outputs.exists():
        raise UserError(
            f"{args.dataset} is there and was not made by this command (there is no {outputs.name} beside it). Choose "
            "another name with --dataset, or remove it."
        )
    return outputs


def _write_rows(path: Path, rows: list[dict]) -> None:
    """Write a dataset, under another name until it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    from .main import run

    run("generate", main)
