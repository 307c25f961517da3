"""Word problems in plain language, worked through with the roles of the tiny world.

Some friends collect things: one had so many and found or lost a few, another has a few more or fewer than a friend.
The question asks how many most of them have. A trace works it out friend by friend, with the redundancy that the
generator of `examples/tiny_world/world.py` wraps around every step: verification, restatement, filler, asides, guesses
that turn out wrong and are corrected, and statements of the answer at the end. Roles, openings and announcements are
that world's, and so are the functions that read them off a text; what a step says is this file's.

A small pretrained model knows the words and the sums, so it can learn this within a few hundred traces. Run as a
script, it prints one trace with its roles:

    python examples/study/word_problems.py --setting several --seed 7
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny_world"))

import world


FRIENDS = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack")
THINGS = ("shells", "coins", "stamps", "cards", "marbles", "buttons", "stickers", "pencils")

_SHARES = {"verification": 0.25, "restatement": 0.15, "filler": 0.10, "digression": 0.15, "error": 0.35}
SETTINGS = {
    # Several counts are asked for, so the answer rests on many steps, and a whole answer is only stated at the end
    "several": world.WorldSettings("several", steps=(3, 5), asked=0.6, redundancy=(1, 2), statements=2, **_SHARES),
    # Only the last count is asked for, at the end of a chain: the answer is one number, which the last step states
    "last": world.WorldSettings("last", steps=(3, 5), asked=0.0, redundancy=(1, 2), statements=2, **_SHARES),
    # As `several`, for a processor: the shortest traces in which every role occurs
    "short": world.WorldSettings("short", steps=(3, 3), asked=0.6, redundancy=(1, 1), statements=2, **_SHARES),
}


@dataclass(frozen=True)
class WordProblem(world.Problem):
    """
    Counts that follow from each other.

    Args:
        registers (`tuple[str, ...]`):
            The friends: the first of [`FRIENDS`] in order.
        operands (`tuple[tuple[str, str], ...]`):
            For every friend a number or an earlier friend, and how much is added, `"5"` or `"-5"`.
        asked (`tuple[str, ...]`):
            Friends the question asks about, in order.
        things (`str`):
            What they collect, in the plural.
    """

    things: str

    @property
    def question(self) -> str:
        """The question as text, on one line."""
        lines = ". ".join(self._line(name, self.things) for name in self.registers)
        one = f"How many {self.things} does {self.asked[0]} have?"
        many = f"How many {self.things} do {world.listed(self.asked)} have?"
        return f"Some friends collect {self.things}. {lines}. {one if len(self.asked) == 1 else many}"

    def boxed(self, found: dict[str, str]) -> str:
        """What stands in the box: a number where one friend is asked about, else `\\text{Anna=12, Carla=30}`."""
        return found[self.asked[0]] if len(self.asked) == 1 else super().boxed(found)

    def response(self, found: dict[str, str]) -> str:
        """What follows the think block."""
        return f"The answer is \\boxed{{{self.boxed(found)}}}."

    def opening(self) -> str:
        """The body of the first segment."""
        return f"wants the {self.things} of {world.listed(self.asked)}, so the friends are done one by one in order."

    def content(self, name: str, found: dict[str, str]) -> str:
        """How many a friend has if others have what was found."""
        a, change = self._looked_up(name, found)
        return str(int(a) + int(change))

    def wrong_content(self, rng: random.Random, name: str, found: dict[str, str]) -> str:
        """A guess that is wrong by a few."""
        right = int(self.content(name, found))
        return str(rng.choice([n for n in range(right - 9, right + 10) if n > 0 and n != right]))

    def working(self, lead: str, name: str, found: dict[str, str]) -> str:
        """How a count is settled."""
        value, base = self.content(name, found), self.definition(name)[0]
        where = f", where {base} has {found[base]}" if base in found else ""
        a, change = self._looked_up(name, found)
        operation = f"{a} {'minus' if int(change) < 0 else 'plus'} {abs(int(change))}"
        return f"{name}: {self._line(name)}{where}. {lead} {operation} makes {value}, so {name} has {value}."

    def hunch(self, name: str, value: str) -> str:
        """A count is guessed."""
        return f"{name}: {self._line(name)}. It feels right without the sum, so {name} has {value}."

    def quotation(self, names: list[str]) -> str:
        """Lines of the question are said once more."""
        return f"what the question says: there we read that {' and that '.join(self._line(n) for n in names)}."

    def aside(self, rng: random.Random) -> str:
        """Sums that nobody asked for."""
        a, b, c = rng.randint(10, 49), rng.randint(2, 9), rng.randint(2, 9)
        return f"{a} plus {b} makes {a + b} and {a + b} plus {c} makes {a + b + c}, but nobody asks."

    def statement(self, found: dict[str, str]) -> str:
        """The answer is said."""
        return f"the answer is {found[self.asked[0]]}." if len(self.asked) == 1 else super().statement(found)

    def _line(self, name: str, things: str = "") -> str:
        base, change = self.definition(name)
        more, number, things = int(change) > 0, abs(int(change)), f" {things}" if things else ""
        if base in self.registers:
            return f"{name} has {number} {'more' if more else 'fewer'}{things} than {base}"
        return f"{name} had {base}{things} and {'found' if more else 'lost'} {number}"

    def _contents(self, names: list[str], found: dict[str, str]) -> str:
        return world.listed([f"{name} has {found[name]}" for name in names])


def make_problem(rng: random.Random, settings: world.WorldSettings) -> WordProblem:
    """
    Draws a problem. Counts lie between 1 and 99.

    Args:
        rng (`random.Random`):
            Source of randomness.
        settings (`WorldSettings`):
            Number of friends, and how many are asked about.

    Returns:
        [`WordProblem`]: the problem.
    """
    n = rng.randint(*settings.steps)
    names = FRIENDS[:n]
    asked = [i == n - 1 or rng.random() < settings.asked for i in range(n)]
    bases = [str(rng.randint(11, 49)) for _ in range(n)]
    for user, used in world.draw_links(rng, asked, settings.linked):
        bases[user] = names[used]
    counts: dict[str, int] = {}
    operands = []
    for name, base in zip(names, bases, strict=True):
        start = counts[base] if base in counts else int(base)
        change = rng.randint(2, 9) * (1 if start < 11 else rng.choice((1, -1)))
        counts[name] = start + change
        operands.append((base, str(change)))
    wanted = tuple(name for name, one in zip(names, asked, strict=True) if one)
    return WordProblem(names, tuple(operands), wanted, rng.choice(THINGS))


def make_rows(setting: str, n: int, split: str, start: int = 0) -> Iterator[dict]:
    """
    Draws `n` rows of a split. Splits never share a seed.

    Args:
        setting (`str`):
            One of [`SETTINGS`].
        n (`int`):
            Number of rows.
        split (`str`):
            Name of the split; any string.
        start (`int`, defaults to `0`):
            Index of the first row.

    Yields:
        `dict`: `id`, `question`, `solution`, `answer` (strings) and `roles` (one string a segment, in order).
    """
    for index in range(start, start + n):
        trace = sample(setting, f"{split}/{index}")
        yield {
            "id": f"{setting}-{split}-{index}",
            "question": trace.problem.question,
            "solution": trace.solution,
            "answer": trace.problem.answer,
            "roles": [segment.role for segment in trace.segments],
        }


def sample(setting: str, seed: int | str) -> world.Trace:
    """
    Draws a problem with its trace.

    Args:
        setting (`str`):
            One of [`SETTINGS`].
        seed (`int` or `str`):
            Seed; the same one gives the same trace on every machine.

    Returns:
        [`Trace`]: the trace with its problem.

    Raises:
        `ValueError`: If there is no such setting.
    """
    if setting not in SETTINGS:
        raise ValueError(f"Unknown setting {setting!r}; choose one of {sorted(SETTINGS)}.")
    settings = SETTINGS[setting]
    rng = random.Random(f"word-problems/{setting}/{seed}")
    return world.make_trace(rng, make_problem(rng, settings), settings)


def parse_counts(boxed: str) -> dict[str, str]:
    """
    Takes the contents of a box apart.

    Args:
        boxed (`str`):
            What stands in the box.

    Returns:
        `dict[str, str]`: count by friend; a number without a friend stands under `""`.
    """
    number = re.fullmatch(r"\s*(\d+)\s*", boxed)
    return {"": number[1]} if number else world.parse_answer(boxed)


if __name__ == "__main__":
    world.main(sorted(SETTINGS), "several", lambda setting, seed: next(make_rows(setting, 1, f"script-{seed}")))
