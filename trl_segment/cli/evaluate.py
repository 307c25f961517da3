"""`trl-segment evaluate`: accuracy and output length of models, with intervals and paired differences."""

import dataclasses
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

from tqdm.auto import tqdm
from trl import ScriptArguments, TrlParser

from ..evaluation import Grader, paired_difference, summarize
from ..traces import TraceConfig, build_trace, row_name
from ..traces.trace import QUESTION_TEMPLATE
from .data import load_splits


@dataclass
class DecodingArguments:
    r"""
    Arguments of the commands that let a model solve problems.

    Parameters:
        samples (`int`, *optional*, defaults to `1`):
            Outputs per problem.
        temperature (`float`, *optional*, defaults to `0.0`):
            0 is greedy decoding.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling.
        max_new_tokens (`int`, *optional*, defaults to `32768`):
            Outputs are cut off after so many tokens.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print what would be done and what it costs, and stop. No weight is loaded.
        batch_size (`int`, *optional*, defaults to `64`):
            Outputs made at a time.
        max_problems (`int`, *optional*):
            Only the first so many problems of each set.
        problems_split (`str`, *optional*):
            Split of a Hub dataset. Defaults to `test`, or the only one.
        backend (`str`, *optional*, defaults to `"transformers"`):
            `"transformers"` or `"vllm"`.
        question_template (`str`, *optional*):
            User turn made of a question; `{question}` stands for it. Defaults to the paper's, as in training.
        answer_column (`str`, *optional*, defaults to `"answer"`):
            Column with the right answer.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision to load the models in.
        attn_implementation (`str`, *optional*):
            Attention kernel.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
    """

    samples: int = field(default=1, metadata={"help": "Outputs per problem."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy decoding; the paper samples at 0.6."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling, in (0, 1]."})
    max_new_tokens: int = field(default=32768, metadata={"help": "Outputs are cut off after so many tokens."})
    seed: int = field(default=0, metadata={"help": "Seed of the samples."})
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and what it costs, and stop."})
    batch_size: int = field(default=64, metadata={"help": "Outputs made at a time."})
    max_problems: int | None = field(default=None, metadata={"help": "Only the first so many problems of each set."})
    problems_split: str | None = field(
        default=None, metadata={"help": "Split of a Hub dataset. Default: test, or the only one."}
    )
    backend: str = field(
        default="transformers", metadata={"help": "Engine that decodes.", "choices": ["transformers", "vllm"]}
    )
    question_template: str = field(
        default=QUESTION_TEMPLATE, metadata={"help": "User turn made of a question; {question} stands for it."}
    )
    answer_column: str = field(default="answer", metadata={"help": "Column with the right answer."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )
    dtype: str = field(default="auto", metadata={"help": "Precision to load the models in."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention kernel."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})


@dataclass
class EvaluateArguments(DecodingArguments):
    r"""
    Arguments of `trl-segment evaluate`. Extends [`DecodingArguments`].

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
            Folder for the outputs. What it holds already is not made again.
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


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((EvaluateArguments,), prog="trl-segment evaluate")
    (args,) = parser.parse_args_and_config(argv)
    if bool(args.outputs) == bool(args.models):
        parser.error("pass either --models (and --problems) or --outputs")
    if args.models and not args.problems:
        parser.error("--problems is required with --models: what shall they solve?")
    if args.dry_run:
        if args.outputs:
            parser.error("--dry-run says what models would be asked; grading --outputs loads none")
        config = TraceConfig(question_template=args.question_template, answer_column=args.answer_column)
        plan_outputs(_labels(args.models), _labels(args.problems), config, args)
        return
    with Grader() as grader:
        graded, rows, sets = _grade_files(args, grader) if args.outputs else _solve(args, grader)
    _print_table(graded, sets)
    report = {
        "settings": asdict(args),
        "problem_sets": sets,
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
        "rows": rows,
    }
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        print(f"Every figure and verdict: {args.json}")


def _labels(names: list[str]) -> dict[str, str]:
    """Label -> path. Of equal last parts the whole path is the label."""
    # A folder may have an equals sign in its name
    split = [(None, name) if "=" not in name or Path(name).exists() else name.split("=", 1) for name in names]
    last = [Path(path).stem if Path(path).is_file() else Path(path).name for _, path in split]
    labels = {}
    for (label, path), short in zip(split, last, strict=True):
        key = label or (short if last.count(short) == 1 else path)
        if key in labels:
            sys.exit(f"Two of them are called {key!r}. Name them: first=PATH second=PATH")
        labels[key] = path
    return labels


def plan_outputs(
    models: dict[str, str], problems: dict[str, str], config: TraceConfig, args: DecodingArguments
) -> None:
    """
    Print what models would be asked, and how long the answers can get. No weight is loaded.

    Args:
        models (`dict[str, str]`):
            Label and name of each model or adapter.
        problems (`dict[str, str]`):
            Label and name of each problem set.
        config ([`~trl_segment.traces.TraceConfig`]):
            How rows are read.
        args ([`DecodingArguments`]):
            How many outputs, and how long.
    """
    from ..evaluation.outputs import read_problems

    total = 0
    for label, path in problems.items():
        count = len(read_problems(load_problems(path, args), config))
        total += count * args.samples
        print(f"{label}: {count:,} problems x {args.samples} outputs")
    how = "greedy" if args.temperature == 0 else f"temperature {args.temperature:g}"
    print(
        f"{len(models)} x {total:,} outputs ({', '.join(models)}), {how}, of at most {args.max_new_tokens:,} tokens: "
        f"{len(models) * total * args.max_new_tokens:,} tokens if none ended before. Outputs that were made already "
        "are not made again. Nothing was loaded or written."
    )


def load_problems(name: str, args: DecodingArguments):
    """Rows of a problem set or of outputs."""
    splits = load_splits(ScriptArguments(dataset_name=name, dataset_train_split="only"))
    split = next(iter(splits))
    if len(splits) > 1:
        split = args.problems_split or "test"
        if split not in splits:
            sys.exit(f"{name!r} has the splits {', '.join(splits)}, not {split!r}. Choose one with --problems_split.")
    rows = splits[split]
    return rows.select(range(min(args.max_problems or len(rows), len(rows))))


def _solve(args, grader):
    from ..evaluation.generation import DecodingConfig
    from ..evaluation.outputs import OutputFile, evaluate_outputs, read_problems, solve_problems

    config = TraceConfig(question_template=args.question_template, answer_column=args.answer_column)
    decoding = DecodingConfig(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    sets = {label: read_problems(load_problems(path, args), config) for label, path in _labels(args.problems).items()}
    how = "greedy" if args.temperature == 0 else f"T{args.temperature:g}-p{args.top_p:g}-seed{args.seed}"
    graded, rows = {}, []
    for label, path in _labels(args.models).items():
        model, tokenizer, decode, made_by = load_engine(path, args, decoding)
        settings = {**made_by, **asdict(decoding)}
        graded[label] = []
        for name, problems in sets.items():
            folder = Path(args.output_dir) / label.replace("/", "_").strip("._")
            file = OutputFile(folder / f"{Path(name).name}.{how}.jsonl", settings)
            total = len(problems) * args.samples
            known = sum((record["sample"] < args.samples) for record in file.records.values())
            started = time.monotonic()
            with tqdm(total=total, initial=min(known, total), desc=f"{label} on {name}", unit=" outputs") as bar:
                tokens = 0

                def on_step(count, bar=bar, started=started):
                    nonlocal tokens
                    tokens += count
                    bar.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s", refresh=False)

                records = solve_problems(
                    problems,
                    model,
                    tokenizer,
                    decoding,
                    args.samples,
                    file,
                    args.batch_size,
                    on_step,
                    lambda record, bar=bar: bar.update(),
                    decode,
                )
            result, verdicts = evaluate_outputs(records, grader)
            graded[label].append(result)
            rows += [{"model": label, "problems": name, **row} for row in verdicts]
        del model, decode  # before the next one is loaded
    return graded, rows, list(sets)


def load_engine(path: str, args: DecodingArguments, decoding):
    """Model (or `None`), tokenizer, other engine (or `None`), and what identifies them in the settings of a file."""
    if args.backend == "vllm":
        from ..evaluation.loading import load_tokenizer
        from ..evaluation.vllm_backend import VLLMDecoder

        tokenizer = load_tokenizer(path, args.chat_template_path, args.trust_remote_code)
        decoder = VLLMDecoder(path, decoding, args.batch_size, args.dtype, args.trust_remote_code)
        return None, tokenizer, decoder, {"backend": "vllm", "model": path, "dtype": args.dtype}
    from ..attribution.runner import weights_fingerprint
    from ..evaluation.loading import load_model_or_adapter

    model, tokenizer = load_model_or_adapter(
        path, args.dtype, args.attn_implementation, args.chat_template_path, args.trust_remote_code
    )
    made_by = {"backend": "transformers", "weights": weights_fingerprint(model), "dtype": str(model.dtype)}
    return model, tokenizer, None, made_by


def _grade_files(args, grader):
    from ..evaluation.outputs import evaluate_outputs

    config = TraceConfig(question_template=args.question_template, answer_column=args.answer_column)
    graded, rows = {}, []
    for label, path in _labels(args.outputs).items():
        groups: dict[str, list[dict]] = {}
        order = []
        for index, row in enumerate(load_problems(path, args)):
            # Not from the row as a whole: without an answer column that would be the output's own answer
            answer = build_trace({"prompt": "", "completion": "", **_column(row, args.answer_column)}, config).answer
            if not answer:
                sys.exit(
                    f"{path}: {row_name(row, index)} has no right answer in the column {args.answer_column!r}. Name "
                    "the column with --answer_column."
                )
            name = row_name(row, index)
            record = {**row, "id": name, "solution": build_trace(row, config).completion, "answer": answer}
            problem = name if row.get("id") is not None else row.get("question") or name
            groups.setdefault(str(problem), []).append(record)
            order.append((str(problem), len(groups[str(problem)]) - 1))
        if not groups:
            sys.exit(f"{path} holds no outputs.")
        if len({len(group) for group in groups.values()}) > 1:
            print(f"{path}: problems have different numbers of outputs, so each output counts as a problem.")
            groups = {f"{problem} #{i}": [groups[problem][i]] for problem, i in order}
            order = [(problem, 0) for problem in groups]
        result, verdicts = evaluate_outputs(list(groups.values()), grader)
        graded[label] = [dataclasses.replace(result, ids=list(groups))]
        width = len(next(iter(groups.values())))
        place = {problem: i * width for i, problem in enumerate(groups)}
        # In the order of the file
        rows += [{"model": label, **verdicts[place[problem] + i]} for problem, i in order]
    return graded, rows, ["outputs"]


def _column(row, name):
    return {name: row[name]} if row.get(name) is not None else {}


def _plain(difference):
    return {key: asdict(value) if hasattr(value, "low") else value for key, value in difference.items()}


def _interval(estimate, scale=1.0):
    return f"{scale * estimate.value:.1f} [{scale * estimate.low:.1f}, {scale * estimate.high:.1f}]"


def _line(figures):
    """One model's figures."""
    parts = [f"accuracy {_interval(figures.accuracy, 100)} %"]
    parts += [f"pass@{k} {_interval(value, 100)} %" for k, value in figures.pass_at.items() if k > 1]
    if figures.mean_tokens is not None:
        parts.append(f"tokens {_interval(figures.mean_tokens)}, median {figures.median_tokens:,.0f}")
    if figures.cut_off is not None:
        parts.append(f"cut off {_interval(figures.cut_off, 100)} %")
    parts += [f"{n} {v}" for v, n in sorted(figures.verdicts.items()) if v not in ("correct", "wrong")]
    return f"{'; '.join(parts)} ({figures.problems} problems x {figures.samples})"


def _print_table(graded, sets):
    """Figures and differences for each problem set, and over all where there are several."""
    for index, name in enumerate([*sets, *(["all"] if len(sets) > 1 else [])]):
        chosen = {label: parts[index : index + 1] or parts for label, parts in graded.items()}
        print(f"\n{name} (95 % bootstrap intervals over problems)")
        for label, parts in chosen.items():
            print(f"  {label}: {_line(summarize(parts))}")
        for a, b in combinations(chosen, 2):
            difference = paired_difference(chosen[a], chosen[b])
            if difference["accuracy"] is None:
                print(f"  {b} minus {a}: no problem in common")
                continue
            line = f"accuracy {_interval(difference['accuracy'], 100)} points"
            if difference["tokens"] is not None:
                line += f"; tokens {_interval(difference['tokens'])}"
            print(f"  {b} minus {a}: {line} ({difference['problems']} problems, paired)")


if __name__ == "__main__":
    main()
