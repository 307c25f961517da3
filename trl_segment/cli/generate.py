"""`trl-segment generate`: a model's own correct solutions as a dataset of traces (the paper's own-traces recipe)."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm.auto import tqdm
from trl import TrlParser

from ..traces import TraceConfig
from .evaluate import DecodingArguments, load_engine, load_problems, plan_outputs


@dataclass
class GenerateArguments(DecodingArguments):
    r"""
    Arguments of `trl-segment generate`. Extends [`~trl_segment.cli.evaluate.DecodingArguments`].

    Parameters:
        model_name_or_path (`str`, *optional*):
            Model or PEFT adapter that solves the problems.
        problems (`str`, *optional*):
            Problem set: a file or a Hub name, with `question` (or `problem`) and an answer column.
        dataset (`str`, *optional*, defaults to `"traces.jsonl"`):
            File for the chosen solutions, rows with `id`, `question`, `solution`, `answer`. Every output is kept
            beside it, in `<dataset>.outputs.jsonl`, and a killed run goes on from there.
        samples (`int`, *optional*, defaults to `4`):
            Solutions to sample per problem.
        temperature (`float`, *optional*, defaults to `0.6`):
            Temperature of the samples.
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
    samples: int = field(default=4, metadata={"help": "Solutions to sample per problem."})
    temperature: float = field(default=0.6, metadata={"help": "Temperature of the samples."})
    pick: str = field(
        default="shortest",
        metadata={
            "help": "Which correct solutions of a problem: the shortest, or all.",
            "choices": ["shortest", "all"],
        },
    )


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    from ..evaluation import Grader
    from ..evaluation.generation import DecodingConfig
    from ..evaluation.outputs import OutputFile, evaluate_outputs, pick_solutions, read_problems, solve_problems

    parser = TrlParser((GenerateArguments,), prog="trl-segment generate")
    (args,) = parser.parse_args_and_config(argv)
    if not args.model_name_or_path or not args.problems:
        parser.error("--model_name_or_path and --problems are required: who shall solve what?")
    config = TraceConfig(question_template=args.question_template, answer_column=args.answer_column)
    if args.dry_run:
        plan_outputs({args.model_name_or_path: args.model_name_or_path}, {args.problems: args.problems}, config, args)
        return
    decoding = DecodingConfig(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    problems = read_problems(load_problems(args.problems, args), config)
    model, tokenizer, decode, made_by = load_engine(args.model_name_or_path, args, decoding)
    dataset = Path(args.dataset)
    file = OutputFile(dataset.with_suffix(".outputs.jsonl"), {**made_by, **asdict(decoding)})
    total, started, tokens = len(problems) * args.samples, time.monotonic(), 0
    with tqdm(total=total, desc="Solving", unit=" outputs") as bar:

        def on_step(count):
            nonlocal tokens
            tokens += count
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s", refresh=False)

        bar.update(sum(record["sample"] < args.samples for record in file.records.values()))
        records = solve_problems(
            problems,
            model,
            tokenizer,
            decoding,
            args.samples,
            file,
            args.batch_size,
            on_step,
            lambda record: bar.update(),
            decode,
        )
    with Grader() as grader:
        graded, _ = evaluate_outputs(records, grader)
    chosen, without = pick_solutions(records, graded.correct, args.pick)
    temporary = dataset.with_name(f".{dataset.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen), encoding="utf-8")
    os.replace(temporary, dataset)
    print(
        f"{len(problems)} problems, {int(graded.correct.sum())} of {total} outputs correct, "
        f"{int(graded.cut_off.sum())} cut off."
    )
    print(f"{len(chosen)} traces of {len(problems) - len(without)} problems in {dataset}.")
    if without:
        named = ", ".join(without[:10]) + (", ..." if len(without) > 10 else "")
        print(f"{len(without)} problems have no correct solution and are left out: {named}")
        if len(without) == len(problems):
            raise SystemExit("No problem has a correct solution, so the dataset is empty.")


if __name__ == "__main__":
    main()
