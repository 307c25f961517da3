"""What a study would cost: amounts counted from its settings, seconds from the rates of a machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from outcomes import table
from settings import Settings


@dataclass(frozen=True)
class Rates:
    """
    What the plan assumes of a machine and a model of 135M parameters.

    Args:
        machine (`str`):
            Its name.
        processes (`int`):
            Processes that share it.
        threads (`int`):
            Threads of the warm-up, while no other process has work.
        options (`str`):
            Options of the study that the plan is for.
        training (`float`):
            Training tokens a second of one process.
        gradients (`float`):
            Attributed tokens times gradient evaluations a second.
        sequential (`float`):
            The same for scorers whose passes wait for each other.
        step (`float`):
            Seconds of a decoding step of one batch.
        command (`float`):
            Seconds until a command is at work: load the model, prepare the rows, save it.
        together (`float`):
            By how much processes are faster than one, as a share of their number.
        known (`str`):
            Where the rates are from.
    """

    machine: str
    processes: int
    threads: int
    options: str
    training: float
    gradients: float
    sequential: float
    step: float
    command: float
    together: float
    known: str


# Launches of kernels bound all of it, so a step hardly depends on what is in it, and processes hardly hinder each
# other while each has a core. Measured in a study of SmolLM2-135M with 16 processes: 41 s for 50 steps on 238,200
# tokens, 0.7 and 0.8 s a trace of 600 tokens for 25 and 50 evaluations, 0.6 s for 1.4, at most 100 s for 720 decoding
# steps
H200 = Rates(
    machine="one H200 with 16 CPU cores",
    processes=16,
    threads=1,
    options=" --backend transformers --batch_size 200",
    training=5_800,
    gradients=21_000,
    sequential=1_400,
    step=0.13,
    command=15,
    together=1.0,
    known="measured in a study of SmolLM2-135M, each with 16 processes at work, scoring with four",
)
CORES = Rates(
    machine="two CPU cores that nothing else uses",
    processes=2,
    threads=2,
    options="",
    training=103,
    gradients=145,
    sequential=100,
    step=0.1,
    command=8,
    together=1.0,
    known="measured in a run of `--quick` with SmolLM2-135M that had both cores",
)


# Gradient evaluations a trace that the plan assumes, and whether passes wait for each other
EVALUATIONS = {
    "default": (30, False),
    "default_hidden": (30, False),
    "paper": (50, False),
    "first_correct": (1, True),
    "rest_perplexity": (5, True),
    "marginal": (2, True),
    "counterfactual": (3, True),
    "marginal_hidden": (2, True),
    "counterfactual_hidden": (3, True),
}


def plan(settings: Settings, seeds: int, arms: int, stores: list[str], rates: Rates, tokens: int) -> str:
    """
    What a study would cost, as Markdown: amounts counted from its parameters, seconds from the rates of a machine.

    Args:
        settings ([`Settings`]):
            The study.
        seeds (`int`):
            Fine-tuning seeds.
        arms (`int`):
            Number of arms.
        stores (`list[str]`):
            Stores that they need.
        rates ([`Rates`]):
            The machine.
        tokens (`int`):
            Tokens of a trace with its prompt; outputs are taken to be as long.

    Returns:
        `str`: A table, its sum and the rates.
    """
    together = max(1.0, rates.together * rates.processes)
    warm = settings.warmup != "never"
    models = seeds * (arms + 1 + warm)
    tried = len(settings.learning_rates) if len(settings.learning_rates) > 1 else 0
    checks = (settings.warmup == "auto") + warm + tried
    waits = (settings.warmup == "auto") + warm + -(-tried // rates.processes)  # learning rates are tried side by side

    step = settings.batch * tokens
    training = step * settings.steps * (seeds * arms + tried)
    warmup = step * settings.warmup_steps * warm
    attributed = {name: settings.traces * tokens * EVALUATIONS[name][0] for name in stores}
    scoring = sum(
        amount / (rates.sequential if EVALUATIONS[name][1] else rates.gradients) for name, amount in attributed.items()
    )
    # Some output always reaches the limit, and its batch with it
    batch_seconds = settings.max_new_tokens * rates.step
    outputs = models * settings.block * (1 + settings.samples)
    commands = seeds * arms + 2 * models + len(stores) + tried + checks
    rows: list[tuple[str, str, float]] = [
        ("warm-up", f"{warmup / 1e6:.2f}M training tokens", warmup / rates.training / rates.threads),
        ("validation outputs", f"{checks * settings.validation:,} in {checks} batches", waits * batch_seconds),
        ("scoring", f"{sum(attributed.values()) / 1e6:.2f}M tokens times evaluations", scoring / together),
        ("fine-tuning", f"{training / 1e6:.2f}M training tokens", training / rates.training / together),
        ("test outputs", f"{outputs:,} in {2 * models} batches", 2 * models * batch_seconds / together),
        ("starting commands", f"{commands}", commands * rates.command / together),
    ]
    made = (outputs + checks * settings.validation) * tokens
    assumed = ", ".join(f"{k} {v:,g}" for k, v in asdict(rates).items() if isinstance(v, float | int))
    return (
        f"Seeds: {seeds}; arms: {arms}; test problems: {seeds * settings.block}, with 1 + {settings.samples} "
        f"outputs; traces: {settings.traces} of about {tokens} tokens. A model of 135M parameters on {rates.machine}, "
        f"`--processes {rates.processes}{rates.options}`:\n\n"
        + table(["part", "how much", "minutes"], [[*row[:2], f"{row[2] / 60:.1f}"] for row in rows])
        + f"\n{sum(row[2] for row in rows) / 60:.1f} minutes; at most {made / 1e6:.1f}M generated tokens.\n\n"
        f"Rates: {assumed} (tokens or seconds, see `Rates` in the source; {rates.known})."
    )
