r"""Does it help to weigh segments in GRPO? Reward and output length against plain GRPO in the tiny world.

    OMP_NUM_THREADS=1 python examples/grpo/study.py --output_dir study
    OMP_NUM_THREADS=1 python examples/grpo/study.py --quick --output_dir study    # does it run at all

Every arm starts from the base model of the tiny world and takes as many GRPO steps on the same prompts, once per seed:
`grpo` is TRL's trainer; `marginal` gives segments that the answer would miss the weight 2 before scaling; `random`
gives it to as many segments of each completion, drawn at random. Then every model works on the test problems of its
seed, sampled as in training (temperature 1); no arm has seen them. Reward is the share of right answers.

Prints two Markdown tables with bootstrap intervals (seeds and problems, paired between arms), and writes them with the
curves of training to `results.json`. What is found in the output folder is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# See `examples/tiny_world/study.py`
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))

import numpy as np


HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tiny_world"), str(HERE.parent / "study")]

import tasks  # noqa: E402
import world  # noqa: E402
from commands import run_command, write_jsonl  # noqa: E402
from outcomes import Evaluation, Reading, compare, read_outcome, roles_table, table  # noqa: E402


# As `repetition`, with problems of three to four registers: completions of 250 tokens, so that a study takes minutes
SETTINGS = {
    **world.SETTINGS,
    "short": world.get_settings("repetition", steps=(3, 4), redundancy=(1, 2)),
}
CHECKPOINT = HERE.parent / "tiny_world" / "checkpoint"
# Options of `SegmentWeightedGRPOConfig`; `None` is TRL's trainer
ARMS: dict[str, dict | None] = {
    "grpo": None,
    "marginal": {},
    "random": {"selection": "random", "attribution_scorer": "random", "tau": 0.7},
}
ROLES = tuple(role for role in world.ROLES if not role.endswith("_indirect"))


def train(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> list[dict]:
    """Trains one model, and returns the log of its steps."""
    from transformers import AutoTokenizer, PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from trl_segment import SegmentWeightedGRPOConfig, SegmentWeightedGRPOTrainer

    options = ARMS[arm]
    config, cls = (GRPOConfig, GRPOTrainer)
    if options is not None:
        config, cls = (SegmentWeightedGRPOConfig, SegmentWeightedGRPOTrainer)
    rows, reward = tasks.tiny_world(SETTINGS[args.setting], args.steps * args.prompts, f"grpo-study-{seed}")
    trainer = cls(
        str(CHECKPOINT),
        reward,
        config(
            str(folder),
            seed=seed,
            max_steps=args.steps,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            num_generations=args.generations,
            per_device_train_batch_size=args.prompts * args.generations,
            max_completion_length=args.max_new_tokens,
            model_init_kwargs={"dtype": "float32"},
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            **(options or {}),
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(CHECKPOINT),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder))
    trainer.processing_class.save_pretrained(folder)
    return [log for log in trainer.state.log_history if "grad_norm" in log]


def problems_of(args: argparse.Namespace, seed: int) -> Path:
    """The test problems of a seed."""
    path = Path(args.output_dir) / f"problems-{seed}.jsonl"
    if not path.exists():
        rows = world.make_rows(SETTINGS[args.setting], args.problems, f"grpo-test-{seed}")
        write_jsonl(path, [{name: row[name] for name in ("id", "question", "answer")} for row in rows])
    return path


def run(args: argparse.Namespace, arm: str, seed: int) -> Path:
    """Trains and evaluates one model, unless that was done before."""
    folder = Path(args.output_dir) / arm / str(seed)
    if (folder / "figures.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    began, model = time.monotonic(), CHECKPOINT
    if arm != "base":
        model = folder / "model"
        logs = train(args, arm, seed, model)
        (folder / "logs.json").write_text(json.dumps({"logs": logs, "seconds": time.monotonic() - began}))
    run_command(
        *("evaluate", "--models", model, "--problems", problems_of(args, seed), "--temperature", 1, "--seed", seed),
        *("--max_new_tokens", args.max_new_tokens, "--batch_size", 250, "--backend", "transformers"),
        *("--attn_implementation", "eager", "--output_dir", folder / "outputs", "--json", folder / "figures.tmp"),
    )
    (folder / "figures.tmp").replace(folder / "figures.json")
    if arm != "base":
        shutil.rmtree(model)
    print(f"{arm}, seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return folder


def read_output(solution: str, answer: str) -> Reading:
    """Registers that an output names and gives right, and the roles of its segments."""
    reasoning, boxed = world.parse_solution(solution)
    given, wanted = world.parse_answer(boxed or ""), world.parse_answer(answer)
    return Reading(
        float(np.mean([name in given for name in wanted])),
        float(np.mean([given.get(name) == value for name, value in wanted.items()])),
        [world.role_of(segment) or "unknown" for segment in world.split_segments(reasoning)],
    )


def curves(args: argparse.Namespace, folders: dict[str, list[Path]]) -> tuple[str, dict]:
    """Reward and completion length in training, in fifths of the steps, and the scorer's share of a step."""
    rows, numbers = [], {}
    for arm, those in folders.items():
        if arm == "base":
            continue
        logs = [json.loads((folder / "logs.json").read_text()) for folder in those]
        for name in ("reward", "completions/mean_length"):
            values = np.array([[log[name] for log in one["logs"]] for one in logs])
            parts = [part.mean() for part in np.array_split(values, min(5, args.steps), axis=1)]
            numbers[f"{arm}, {name}"] = values.tolist()
            digits = 2 if name == "reward" else 0
            rows.append([arm, name, *(f"{part:.{digits}f}" for part in parts)])
        seconds = sum(one["seconds"] for one in logs) / len(logs)
        numbers[f"{arm}, seconds"] = seconds
        shares = [log.get("segment_weights/share_of_step") for one in logs for log in one["logs"]]
        shares = [share for share in shares if share is not None]
        if shares:
            numbers[f"{arm}, share_of_step"] = float(np.mean(shares))
            kept = [log.get("segment_weights/kept_tokens") for one in logs for log in one["logs"]]
            # None where no completion was weighted
            numbers[f"{arm}, kept_tokens"] = float(np.mean([share for share in kept if share is not None] or [0.0]))
    parts = [
        f"steps {part[0] + 1} to {part[-1] + 1}" for part in np.array_split(np.arange(args.steps), min(5, args.steps))
    ]
    return table(["arm", "in training", *parts], rows), numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", default="study", help="where everything is written")
    parser.add_argument("--quick", action="store_true", help="a run of a minute whose figures say nothing")
    parser.add_argument("--setting", default="short", choices=sorted(SETTINGS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="GRPO steps")
    parser.add_argument("--prompts", type=int, default=2, help="prompts a step")
    parser.add_argument("--generations", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--problems", type=int, default=100, help="test problems of each seed")
    parser.add_argument("--max_new_tokens", type=int, default=500, help="length limit of an output")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    args = parser.parse_args()
    if args.quick:
        args.steps, args.seeds, args.prompts, args.generations, args.problems = 2, 1, 1, 4, 2
        args.max_new_tokens = 120
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    arms = ["base", *args.arms]
    # Seed by seed, so that what there is after an interruption compares
    folders: dict[str, list[Path]] = {arm: [] for arm in arms}
    for seed in range(args.seeds):
        for arm in arms:
            folders[arm].append(run(args, arm, seed))
    outcomes = {
        arm: read_outcome(
            [
                Evaluation(folder / "figures.json", folder / "outputs", problems_of(args, seed))
                for seed, folder in enumerate(those)
            ],
            read_output,
        )
        for arm, those in folders.items()
    }
    compared, numbers = compare(outcomes, ("grpo",) if "grpo" in outcomes else ("base",))
    in_training, of_training = curves(args, folders)
    print(f"{compared}\n{in_training}\n{roles_table(outcomes, ROLES)}")
    for name, value in of_training.items():
        if not isinstance(value, list):
            print(f"{name} {value:.3f}")
    figures = {"settings": vars(args), "outcomes": numbers, "training": of_training}
    (Path(args.output_dir) / "results.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
