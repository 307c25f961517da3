"""`trl-segment demo`: the whole way, on the small model and the traces that ship with the repository."""

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError
from .options import Command, Group
from .output import note
from .start import start


_WORLD = Path(__file__).resolve().parents[2] / "examples" / "tiny_world"


@dataclass
class DemoArguments:
    """
    Arguments of `trl-segment demo`.

    Parameters:
        output_dir (`str`, *optional*, defaults to `"demo_output"`):
            Folder for the attribution store and the trained model.
        world (`str`, *optional*):
            Folder with `checkpoint/` and `traces.jsonl`. Defaults to `examples/tiny_world` of this repository.
    """

    output_dir: str = field(
        default="demo_output", metadata={"help": "Folder for the attribution store and the trained model."}
    )
    world: str = field(default=str(_WORLD), metadata={"help": "Folder with checkpoint/ and traces.jsonl."})


COMMAND = Command(
    "demo",
    "Run all of it on a small model and the traces of a toy world.",
    (Group("demo", DemoArguments),),
    examples=("trl-segment demo --output_dir demo_output",),
)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    (args,) = start(COMMAND, argv).parse(argv)
    world, output = Path(args.world), Path(args.output_dir)
    if not (world / "checkpoint").is_dir():
        raise UserError(
            f"the demo's model is not at {world / 'checkpoint'}. It ships with the repository, not with the package: "
            "clone the repository and run `make demo`, or point --world at its examples/tiny_world."
        )
    from .main import main as run

    data = f"--dataset_name {shlex.quote(str(world / 'traces.jsonl'))}"
    data += f" --attributions {shlex.quote(str(output / 'attributions'))}"
    model = f"--model_name_or_path {shlex.quote(str(world / 'checkpoint'))}"
    page, trained = output / "trace.html", output / "model"
    commands = {
        "Attribute: how much does each token of each trace move the log-probability of the right answer?": (
            f"attribute {model} {data}"
        ),
        "Inspect: one trace, its segments, and which of them will be trained": f"inspect {data} --trace 0",
        "Look: the same trace as a page for the browser, with every token's attribution": (
            f"inspect {model} {data} --trace 0 --html {shlex.quote(str(page))}"
        ),
        "Train: the model sees whole traces, the loss is on the selected segments": (
            f"sft {model} {data} --output_dir {shlex.quote(str(trained))} --num_train_epochs 2 --learning_rate 1e-4 "
            "--max_length 2048 --logging_steps 3 --per_device_train_batch_size 4 --bf16 False --report_to none "
            "--save_strategy no --activation_checkpointing False"
        ),
    }
    started = time.monotonic()
    for purpose, command in commands.items():
        note(f"\n=== {purpose}\n$ trl-segment {command}\n")
        run(shlex.split(command))
    note(
        f"\nDone in {time.monotonic() - started:.0f} s. The trained model is in {trained}. Open {page} in a "
        "browser to see the trace."
    )


if __name__ == "__main__":
    from .main import run

    run("demo", main)
