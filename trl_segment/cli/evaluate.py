"""`trl-segment evaluate`: accuracy and output length of models, with intervals and paired differences."""

import dataclasses
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation import Grader, paired_difference, summarize
from ..traces import build_trace, row_name
from .errors import UserError
from .options import Command, Group
from .output import note, say, write_json
from .solving import DecodingArguments, ProblemArguments, load_engine, load_problems, plan_outputs, solve
from .start import start
from .tables import figures_lines


if TYPE_CHECKING:
    from ..evaluation import Graded


@dataclass
class EvaluateArguments:
    """
    Arguments of `trl-segment evaluate` besides those of decoding and of problem sets.

    Parameters:
        models (`list[str]`, *optional*):
            Models or PEFT adapters, Hub names or folders, each optionally as `LABEL=PATH`. Differences are taken
            between each pair, later minus earlier.
        problems (`list[str]`, *optional*):
            Problem sets: files or Hub names, with `question` (or `problem`) and an answer column.
        outputs (`list[str]`, *optional*):
            Files with outputs made elsewhere (rows with `question`, `solution`, `answer`), to be graded without
            loading a model. Each file counts as a model.
        output_dir (`str`, *optional*, defaults to `"evaluation"`):
            Folder for the outputs. Those that it holds already are not made again.
        json (`str`, *optional*):
            File for every figure, and a verdict per output.
    """

    models: list[str] | None = field(
        default=None, metadata={"help": "Models or PEFT adapters: Hub names or folders, or LABEL=PATH."}
    )
    problems: list[str] | None = field(
        default=None, metadata={"help": "Problem sets: files or Hub names with `question` and an answer column."}
    )
    outputs: list[str] | None = field(
        default=None, metadata={"help": "Files with outputs made elsewhere (question, solution, answer) to grade."}
    )
    output_dir: str = field(default="evaluation", metadata={"help": "Folder for the outputs; a killed run goes on."})
    json: str | None = field(default=None, metadata={"help": "File for every figure and a verdict per output."})


COMMAND = Command(
    "evaluate",
    "Measure accuracy and output length of models on problem sets, or grade outputs made elsewhere.",
    (
        Group("models and problem sets", EvaluateArguments),
        Group("problems", ProblemArguments),
        Group("decoding, only with --models", DecodingArguments),
    ),
    examples=(
        "trl-segment evaluate --models base=MODEL trained=out --problems problems.jsonl --output_dir evaluation",
        "trl-segment evaluate --outputs outputs.jsonl --json figures.json",
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
    if bool(args.outputs) == bool(args.models):
        parser.error("pass either --models (and --problems) or --outputs")
    if args.outputs:
        idle = {"problems", "output_dir", *(option.name for option in fields(DecodingArguments))}
        parser.refuse(idle, "on --outputs, which are graded as they are")
    else:
        parser.require("problems", args.problems, "the problem sets that the models solve")
        if decoding_args.backend == "vllm":
            parser.refuse({"attn_implementation"}, f"on --backend {decoding_args.backend}")
    if decoding_args.dry_run:
        plan_outputs(_labels(args.models), _labels(args.problems), decoding_args, problem_args)
        return
    with Grader(marks=problem_args.trace_config.marks) as grader:
        if args.outputs:
            graded, rows = _grade_files(args, problem_args, grader)
            sets = ["outputs"]
        else:
            graded, rows, sets = _solve(args, problem_args, decoding_args, grader)
    for line in figures_lines(graded, sets):
        say(line)
    if args.json:
        settings = {**asdict(args), **asdict(problem_args), **asdict(decoding_args)}
        write_json(args.json, {"settings": settings, "problem_sets": sets, **_figures(graded, sets), "rows": rows})
        note(f"Every figure and verdict: {args.json}")


def _labels(names: list[str]) -> dict[str, str]:
    """Path by label. Where last parts are equal, the whole path is the label."""
    # A folder may have an equals sign in its name
    split = [(None, name) if "=" not in name or Path(name).exists() else name.split("=", 1) for name in names]
    last = [Path(path).stem if Path(path).is_file() else Path(path).name for _, path in split]
    labels = {}
    for (label, path), short in zip(split, last, strict=True):
        key = label or (short if last.count(short) == 1 else path)
        if key in labels:
            raise UserError(f"two of them are called {key!r}. Name them: first=PATH second=PATH")
        labels[key] = path
    return labels


def _solve(args, problem_args, decoding_args, grader):
    from ..evaluation.outputs import OutputFile, evaluate_outputs, read_problems

    greedy, decoding = decoding_args.temperature == 0, decoding_args.decoding
    how = "greedy" if greedy else f"T{decoding.temperature:g}-p{decoding.top_p:g}-seed{decoding.seed}"
    sets = {
        label: read_problems(load_problems(path, problem_args), problem_args.trace_config)
        for label, path in _labels(args.problems).items()
    }
    graded, rows = {}, []
    for label, path in _labels(args.models).items():
        engine = load_engine(path, decoding_args, decoding)
        folder = Path(args.output_dir) / _as_file_name(label)
        graded[label] = []
        for name, problems in sets.items():
            with OutputFile(folder / f"{_as_file_name(name)}.{how}.jsonl", engine.settings) as file:
                records = solve(problems, engine, decoding, decoding_args, file, f"{label} on {name}")
            result, verdicts = evaluate_outputs(records, grader)
            graded[label].append(result)
            rows += [{"model": label, "problems": name, **row} for row in verdicts]
        del engine  # before the next one is loaded
    return graded, rows, list(sets)


def _as_file_name(label: str) -> str:
    return label.replace("/", "_").strip("._")


def _grade_files(args, problem_args, grader):
    from ..evaluation.outputs import evaluate_outputs

    graded, rows = {}, []
    for label, path in _labels(args.outputs).items():
        groups, order = _read_outputs(path, problem_args)
        if len({len(group) for group in groups.values()}) > 1:
            say(f"{path}: problems have different numbers of outputs, so each output counts as a problem.")
            groups = {f"{problem} #{i}": [groups[problem][i]] for problem, i in order}
            order = [(problem, 0) for problem in groups]
        result, verdicts = evaluate_outputs(list(groups.values()), grader)
        graded[label] = [dataclasses.replace(result, ids=list(groups))]
        width = len(next(iter(groups.values())))
        place = {problem: i * width for i, problem in enumerate(groups)}
        # In the order of the file
        rows += [{"model": label, **verdicts[place[problem] + i]} for problem, i in order]
    return graded, rows


def _read_outputs(path: str, args: ProblemArguments) -> tuple[dict[str, list[dict]], list[tuple[str, int]]]:
    """Outputs of a file by problem, and for each of its rows the problem and the number of the output."""
    config = args.trace_config
    groups: dict[str, list[dict]] = {}
    order = []
    for index, row in enumerate(load_problems(path, args)):
        name = row_name(row, index)
        # The row as a whole could say it too, but without an answer column that would be the output's own answer
        given = {args.answer_column: row[args.answer_column]} if row.get(args.answer_column) is not None else {}
        answer = build_trace({"prompt": "", "completion": "", **given}, config).answer
        if not answer:
            raise UserError(
                f"{path}: {name} has no right answer in the column {args.answer_column!r}. Name the column with "
                "--answer_column."
            )
        record = {**row, "id": name, "solution": build_trace(row, config).completion, "answer": answer}
        problem = str(name if row.get("id") is not None else row.get("question") or name)
        groups.setdefault(problem, []).append(record)
        order.append((problem, len(groups[problem]) - 1))
    if not groups:
        raise UserError(f"{path} holds no outputs.")
    return groups, order


def _figures(graded: "dict[str, list[Graded]]", sets: list[str]) -> dict:
    """Figures of models and differences between them, for another program."""
    return {
        "models": {
            label: {
                "all": summarize(parts).to_dict(),
                **{name: summarize([part]).to_dict() for name, part in zip(sets, parts, strict=True)},
            }
            for label, parts in graded.items()
        },
        "differences": [
            {"model": b, "minus": a, **_plain(paired_difference(graded[a], graded[b]))}
            for a, b in combinations(graded, 2)
        ],
    }


def _plain(difference):
    return {key: asdict(value) if hasattr(value, "low") else value for key, value in difference.items()}


if __name__ == "__main__":
    from .main import run

    run("evaluate", main)
