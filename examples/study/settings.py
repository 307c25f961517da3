"""Everything that the work in a study's folder depends on, and the small study for two cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """
    Everything that the work in a folder depends on.

    Args:
        model (`str`):
            Pretrained model, a folder or a name of the Hub.
        setting (`str`):
            Setting of the word problems.
        dataset (`str`, *optional*):
            Traces in place of the word problems: rows with `question`, `solution`, `answer`.
        test_dataset (`str`, *optional*):
            Their problems: rows with `question`, `answer`.
        segmenter (`str`):
            Where traces of the dataset are cut.
        traces (`int`):
            Traces that are scored, selected from and fine-tuned on.
        block (`int`):
            Test problems of each seed.
        validation (`int`):
            Problems on which the warm-up and the learning rate are decided.
        samples (`int`):
            Outputs of each problem at temperature 0.6.
        max_new_tokens (`int`):
            Length limit of an output.
        steps (`int`):
            Fine-tuning steps of an arm.
        batch (`int`):
            Traces a step, in the warm-up too.
        learning_rates (`tuple[float, ...]`):
            Candidates; the one with which full SFT is best on the validation problems is taken for all.
        warmup (`str`):
            `"auto"`: where the model answers less than `warmup_below` of the validation problems; `"always"`,
            `"never"`.
        warmup_below (`float`):
            See `warmup`.
        warmup_steps (`int`):
            Steps of the warm-up, on traces of its own.
        warmup_learning_rate (`float`):
            Learning rate of the warm-up.
        max_length (`int`):
            Longer traces are cut in training.
    """

    model: str
    setting: str = "several"
    dataset: str | None = None
    test_dataset: str | None = None
    segmenter: str = "keywords"
    traces: int = 200
    block: int = 100
    validation: int = 50
    samples: int = 4
    max_new_tokens: int = 720
    steps: int = 50
    batch: int = 8
    learning_rates: tuple[float, ...] = (1e-4, 3e-4)
    warmup: str = "auto"
    warmup_below: float = 0.1
    warmup_steps: int = 30
    warmup_learning_rate: float = 5e-4
    max_length: int = 2048

    @property
    def label(self) -> str:
        """The model on a page: a name of the Hub, or the last part of a folder."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @property
    def warmup_traces(self) -> int:
        """Each is seen once."""
        return self.warmup_steps * self.batch if self.warmup != "never" else 0


# Small enough for two cores. Its figures say little: intervals are as wide as what there is to see
QUICK = {
    "setting": "short",
    "traces": 4,
    "block": 8,
    "validation": 8,
    "samples": 2,
    "max_new_tokens": 400,
    "steps": 3,
    "batch": 2,
    "learning_rates": (1e-4,),
    "warmup_steps": 120,
}
QUICK_ARMS = ("full", "default", "random", "marginal hidden", "oracle and end")
