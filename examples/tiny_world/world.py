"""A tiny world in which every segment of a chain of thought has a known role.

A problem names registers (`alpha`, `beta`, ...) line by line. Each holds what a fixed random table of stones makes of
two stones, one of which may be the content of an earlier register. The question asks for most contents; the
others are needed on the way. A teacher trace works through the registers in order and wraps that work in redundancy:
verification, restatement, filler, digressions, and guesses that turn out wrong and are corrected later. The table is
not part of the question (a model has to know it by heart), the contents of registers are, once computed, only in the
trace: the answer is read out of the chain of thought.

Every segment but the first opens with `\\n\\n` and one of [`OPENINGS`], drawn independently of what the segment does.
What it does is said right after that (`compute beta:`, `check beta:`, `guess beta:`), so a model chooses a role by two
or three tokens.

Nothing here needs more than the standard library. Run as a script, it prints one trace with its roles:

    python examples/tiny_world/world.py --setting detours --seed 7
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace


STONES = (
    "amber",
    "agate",
    "beryl",
    "coral",
    "flint",
    "ivory",
    "jade",
    "jet",
    "lapis",
    "mica",
    "onyx",
    "opal",
    "pearl",
    "quartz",
    "ruby",
    "topaz",
)
REGISTERS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")

# Keyword -> opening phrase. Keywords that are no sentence adverb get a tail of their own, the same for every role.
OPENINGS = {
    "Wait": "Wait",
    "Alternatively": "Alternatively",
    "But wait": "But wait",
    "But alternatively": "But alternatively",
    "But just to": "But just to go on",
    "However": "However",
    "Not sure": "Not sure",
    "Going back": "Going back",
    "Backtrack": "Backtrack",
    "Trace back": "Trace back",
    "Another": "Another point",
}

ROLES = (
    "useful",
    "useful_indirect",
    "error",
    "correction",
    "correction_indirect",
    "verification",
    "restatement",
    "filler",
    "digression",
    "statement",
)

# The truth a selection rule is measured against. A correction counts: it is the only place where the right content of
# its register is worked out. `_indirect`: the answer does not name the register, later steps need its content.
DIRECT_ROLES = ("useful", "correction")
INDIRECT_ROLES = ("useful_indirect", "correction_indirect")
USEFUL_ROLES = (*DIRECT_ROLES, *INDIRECT_ROLES)

PROMPT_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
ANSWER_SUFFIX = "</think> So, the final answer is \\boxed{"

# Longer keywords first: `But wait` must not be taken for something shorter that is added to the list one day.
_BOUNDARY = re.compile(r"\n\n(?=(?:" + "|".join(sorted(OPENINGS, key=len, reverse=True)) + r")\b)")
_TABLE_SEED = 2602


def _make_table() -> dict[tuple[str, str], str]:
    rng = random.Random(_TABLE_SEED)
    return {(a, b): rng.choice(STONES) for a in STONES for b in STONES}


TABLE = _make_table()


@dataclass(frozen=True)
class WorldSettings:
    """
    What problems and teacher traces of one setting look like.

    A trace has 1 segment (the opening) + one per register that settles it (a computation or, after wrong guesses, a
    correction) + the redundant ones around each register: from `1 + steps[0] * (1 + redundancy[0])` to
    `1 + steps[1] * (1 + redundancy[1])`, and `statements` at the end. With `steps=(7, 8), redundancy=(2, 4)` and no
    statements that is 22 to 41 segments.

    Args:
        name (`str`):
            Name of the setting; part of row ids and of every row's seed.
        steps (`tuple[int, int]`, defaults to `(7, 8)`):
            Smallest and largest number of registers to compute (at most 10).
        asked (`float`, defaults to `0.75`):
            Probability that the question asks for a register. One it does not ask for is an operand of a later one.
            The last is always asked for.
        linked (`float`, defaults to `0.3`):
            Probability that a register asked for is an operand of a later one as well.
        redundancy (`tuple[int, int]`, defaults to `(2, 4)`):
            Smallest and largest number of redundant segments around each register, uniform. Bounded, because a model
            that decodes greedily never leaves a loop whose length was drawn without memory.
        verification (`float`, defaults to `0.30`):
            Share of redundant segments that compute a known register again.
        restatement (`float`, defaults to `0.20`):
            Share that repeats known contents or lines of the question.
        filler (`float`, defaults to `0.15`):
            Share that says nothing.
        digression (`float`, defaults to `0.15`):
            Share that looks up pairs of stones nobody asked for.
        error (`float`, defaults to `0.20`):
            Share that guesses the register at hand, wrongly. Corrected before the register is used, see `careless`.
        careless (`float`, defaults to `0.0`):
            Probability that a guess is left as it is: all that follows builds on it and the answer comes out wrong.
            Zero in teacher traces; the base model's training text has some.
        tail (`float`, defaults to `0.05`):
            Probability that a segment ends in one more sentence without content, whatever its role.
        statements (`int`, defaults to `0`):
            So many segments at the end say the answer, as traces of real models do.
    """

    name: str
    steps: tuple[int, int] = (7, 8)
    asked: float = 0.75
    linked: float = 0.3
    redundancy: tuple[int, int] = (2, 4)
    verification: float = 0.30
    restatement: float = 0.20
    filler: float = 0.15
    digression: float = 0.15
    error: float = 0.20
    careless: float = 0.0
    tail: float = 0.05
    statements: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "redundancy"):
            low, high = getattr(self, key)
            if low < 0 or high < low:
                raise ValueError(
                    f"`{key}` must be (smallest, largest) with 0 <= smallest <= largest, got {(low, high)}."
                )
        if self.steps[0] < 1 or self.steps[1] > len(REGISTERS):
            raise ValueError(
                f"`steps` must lie between 1 and {len(REGISTERS)}, the named registers, got {self.steps}."
            )
        if any(share < 0 for share in self.shares.values()) or sum(self.shares.values()) <= 0:
            raise ValueError(f"Shares must not be negative and not all zero, got {self.shares}.")

    @property
    def shares(self) -> dict[str, float]:
        """Share of each redundant role; normalised where it is drawn from, so they need not sum to 1."""
        return {r: getattr(self, r) for r in ("verification", "restatement", "filler", "digression", "error")}


SETTINGS = {
    # Redundancy says right things once more: hard for rules that look at what the answer could be read from.
    "repetition": WorldSettings(
        "repetition", verification=0.50, restatement=0.26, filler=0.08, digression=0.08, error=0.08
    ),
    # Redundancy leads away, and more steps are needed only through others: hard for rules that take everything with a
    # large attribution, of whatever sign, and for rules that only look at what the answer reads.
    "detours": WorldSettings(
        "detours", asked=0.6, linked=0.2, verification=0.12, restatement=0.08, filler=0.22, digression=0.28, error=0.30
    ),
    # As `repetition`, but with nearly as many wrong guesses as `detours`: what a student copies is not only long. The
    # base model has not been trained on it.
    "mixed": WorldSettings("mixed", verification=0.42, restatement=0.22, filler=0.05, digression=0.05, error=0.26),
    # As `repetition`, with the answer said in full at the end, again and again, from where alone it can be read: hard
    # for rules that ask what the answer would miss. The base model has not been trained on it.
    "stated": WorldSettings(
        "stated", verification=0.50, restatement=0.26, filler=0.08, digression=0.08, error=0.08, statements=3
    ),
}


@dataclass(frozen=True)
class Problem:
    """
    A chain of look-ups.

    Args:
        registers (`tuple[str, ...]`):
            Names of the registers: the first of [`REGISTERS`] in order.
        operands (`tuple[tuple[str, str], ...]`):
            For every register its two operands: stones, or an earlier register and a stone in either order.
        asked (`tuple[str, ...]`):
            Registers the question asks for, in order.
    """

    registers: tuple[str, ...]
    operands: tuple[tuple[str, str], ...]
    asked: tuple[str, ...]

    @property
    def question(self) -> str:
        """The question as text, on one line."""
        lines = "; ".join(f"{name}: {self._line(name)}" for name in self.registers)
        return f"Follow the table of stones. Lines: {lines}. Report {listed(self.asked)}."

    @property
    def values(self) -> dict[str, str]:
        """Content of every register, by the table."""
        values: dict[str, str] = {}
        for name in self.registers:
            values[name] = self.content(name, values)
        return values

    @property
    def answer(self) -> str:
        """Contents of the registers asked for, as `\\text{alpha=ruby, gamma=jade}`."""
        return self.boxed(self.values)

    # From here on: the words of a trace. Another world has others, see `examples/study/word_problems.py`

    def boxed(self, found: dict[str, str]) -> str:
        """
        What stands in the box if these are the contents: inside `\\text`, because a grader of formulas would take
        `ruby` for a product.
        """
        return "\\text{" + ", ".join(f"{name}={found[name]}" for name in self.asked) + "}"

    def response(self, found: dict[str, str]) -> str:
        """What follows the think block if these are the contents."""
        return f"The table gives \\boxed{{{self.boxed(found)}}}."

    def opening(self) -> str:
        """The body of the first segment."""
        return f"wants {listed(self.asked)} and the lines have to be done one by one in order."

    def definition(self, name: str) -> tuple[str, str]:
        """The operands of a register."""
        return self.operands[self.registers.index(name)]

    def content(self, name: str, found: dict[str, str]) -> str:
        """What a register holds if earlier ones hold what was found."""
        return TABLE[self._looked_up(name, found)]

    def wrong_content(self, rng: random.Random, name: str, found: dict[str, str]) -> str:
        """A guess that is wrong."""
        return rng.choice([stone for stone in STONES if stone != self.content(name, found)])

    def working(self, lead: str, name: str, found: dict[str, str]) -> str:
        """How a register is settled: its line, and what comes out by the table."""
        a, b = self._looked_up(name, found)
        value = self.content(name, found)
        used = [o for o in self.definition(name) if o in found]
        where = f", where {used[0]}={found[used[0]]}" if used else ""
        return f"{name}: {self._line(name)}{where}. {lead} {a} with {b} makes {value}, so {name}={value}."

    def hunch(self, name: str, value: str) -> str:
        """A register is guessed."""
        return f"{name}: {self._line(name)}. It feels right without the table, so {name}={value}."

    def reminder(self, names: list[str], found: dict[str, str]) -> str:
        """Contents found above are said once more."""
        return f"what was found above: by now {self._contents(names, found)}, and the rest stays as it is."

    def quotation(self, names: list[str]) -> str:
        """Lines of the question are said once more."""
        return f"what the question says: there we read {' and '.join(f'{n}: {self._line(n)}' for n in names)}."

    def aside(self, rng: random.Random) -> str:
        """What nobody asked for."""
        a, b, c = (rng.choice(STONES) for _ in range(3))
        return f"{a} with {b} makes {TABLE[a, b]} and {b} with {c} makes {TABLE[b, c]}, but no line asks."

    def statement(self, found: dict[str, str]) -> str:
        """The answer is said."""
        return f"the answer is {', '.join(f'{name}={found[name]}' for name in self.asked)}."

    def _line(self, name: str) -> str:
        return " with ".join(self.definition(name))

    def _looked_up(self, name: str, found: dict[str, str]) -> tuple[str, str]:
        a, b = (found.get(o, o) for o in self.definition(name))
        return a, b

    def _contents(self, names: list[str], found: dict[str, str]) -> str:
        return listed([f"{n}={found[n]}" for n in names])


@dataclass(frozen=True)
class Segment:
    """
    One segment of a trace.

    Args:
        role (`str`):
            One of [`ROLES`].
        opening (`str`):
            Opening phrase, `""` for the first segment.
        announcement (`str`):
            The words right after the opening that say what the segment does (`"compute"`, `"a check of"`).
        body (`str`):
            The rest, ending in a full stop.
        register (`str`, *optional*):
            The register whose content this segment states as its own result, if any.
    """

    role: str
    opening: str
    announcement: str
    body: str
    register: str | None = None

    @property
    def text(self) -> str:
        """Opening, announcement and body as they stand in the trace (without the blank line before them)."""
        head = f"{self.opening}, " if self.opening else ""
        return f"{head}{self.announcement} {self.body}"


@dataclass
class Trace:
    """
    A problem worked through.

    Args:
        problem (`Problem`):
            The problem.
        segments (`list[Segment]`):
            Segments in order.
        found (`dict[str, str]`):
            What the trace last says each register holds. Differs from `problem.values` only after a careless guess.
    """

    problem: Problem
    segments: list[Segment] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)

    @property
    def reasoning(self) -> str:
        """What stands between `<think>\\n` and `\\n</think>`."""
        return "\n\n".join(segment.text for segment in self.segments)

    @property
    def boxed(self) -> str:
        """The answer that follows from the trace."""
        return self.problem.boxed(self.found)

    @property
    def solution(self) -> str:
        """The whole output: think block and short response."""
        return f"<think>\n{self.reasoning}\n</think>\n\n{self.problem.response(self.found)}"

    def first_answerable(self) -> int:
        """Number of segments after which every register asked for stands at its last found content."""
        return max(i for i, s in enumerate(self.segments) if s.register in self.problem.asked) + 1


def listed(words: tuple[str, ...] | list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


# One way to say that a step is worked out, two for most others: otherwise redundancy, drawn over and over, would
# always be the likeliest next thing to do, and a model that decodes greedily would never leave it.
_ANNOUNCEMENTS = {
    "useful": ("compute",),
    "error": ("guess", "a hunch for"),
    "correction": ("correct",),
    "verification": ("check", "a check of"),
    "restatement": ("recall", "a reminder:"),
    "filler": ("hmm,", "let me pause,"),
    "digression": ("a side note:", "just for fun,"),
    "statement": ("all in all,",),
}

_FILLERS = (
    "this is a long task, so it may be good to stay calm and keep the order.",
    "there are quite a few lines here, but there is no need to hurry at all.",
    "it is not clear how long this takes, but it should all come out well.",
    "all of this may look hard at first, but it is only a matter of care.",
)

_TAILS = (
    " That is all there is to say about it for now.",
    " With that it is time to go on to what comes next.",
    " It is good to keep this in mind as the task goes on.",
)


def make_problem(rng: random.Random, settings: WorldSettings) -> Problem:
    """
    Draws a problem.

    Args:
        rng (`random.Random`):
            Source of randomness.
        settings (`WorldSettings`):
            Number of registers.

    Returns:
        [`Problem`]: the problem.
    """
    n = rng.randint(*settings.steps)
    names = REGISTERS[:n]
    asked = [i == n - 1 or rng.random() < settings.asked for i in range(n)]
    operands = [[rng.choice(STONES), rng.choice(STONES)] for _ in range(n)]
    for user, used in draw_links(rng, asked, settings.linked):
        operands[user][rng.randrange(2)] = names[used]
    return Problem(names, tuple(map(tuple, operands)), tuple(x for x, a in zip(names, asked, strict=True) if a))


def draw_links(rng: random.Random, asked: list[bool], linked: float) -> Iterator[tuple[int, int]]:
    """
    Draws which registers use an earlier one, at most one each, so that none is needed for nothing.

    Args:
        rng (`random.Random`):
            Source of randomness.
        asked (`list[bool]`):
            Whether the question asks for each register. One that it does not ask for and that no later one is left to
            use is asked for from here on: the list is changed in place.
        linked (`float`):
            Probability that a register asked for is used as well.

    Yields:
        `tuple[int, int]`: index of a register and of the earlier one it uses.
    """
    free = set(range(1, len(asked)))  # registers that do not use another one yet
    for i in range(len(asked) - 1, -1, -1):  # from the last: late ones have the fewest later ones to be used by
        users = [j for j in sorted(free) if j > i]
        if users and (not asked[i] or rng.random() < linked):
            user = rng.choice(users)
            yield user, i
            free.discard(user)
        elif not asked[i]:
            asked[i] = True


def make_trace(rng: random.Random, problem: Problem, settings: WorldSettings) -> Trace:
    """
    Writes a teacher trace for a problem.

    Args:
        rng (`random.Random`):
            Source of randomness.
        problem (`Problem`):
            The problem.
        settings (`WorldSettings`):
            How much redundancy of which kind.

    Returns:
        [`Trace`]: the trace; with `settings.careless == 0` its `boxed` is the problem's answer.
    """
    trace = Trace(problem)
    found = trace.found

    def emit(role: str, body: str, register: str | None = None) -> None:
        words = rng.choice(_ANNOUNCEMENTS[role.removesuffix("_indirect")])
        tail = rng.choice(_TAILS) if rng.random() < settings.tail else ""
        opening = rng.choice(list(OPENINGS.values()))
        trace.segments.append(Segment(role, opening, words, body + tail, register))

    def resolve(name: str, role: str) -> None:
        lead = "That was wrong," if role.startswith("correction") else "Then"
        emit(role, problem.working(lead, name, found), name)
        found[name] = problem.content(name, found)

    def guess(name: str) -> None:
        value = problem.wrong_content(rng, name, found)
        emit("error", problem.hunch(name, value), name)
        found[name] = value

    def redundant(role: str, settled: list[str]) -> None:
        if role in ("verification", "restatement") and not settled:
            role = "restatement" if role == "restatement" else "filler"
        if role == "verification":
            # Mostly the register just settled: that is what a model that checks itself does.
            name = settled[-1] if rng.random() < 0.7 else rng.choice(settled)
            emit(role, problem.working("Again", name, found))
        elif role == "restatement" and settled and rng.random() < 0.6:
            # Any of them, not the last: a model learns to look registers up by their names
            names = sorted(rng.sample(settled, min(3, len(settled))), key=settled.index)
            emit(role, problem.reminder(names, found))
        elif role == "restatement":
            i = rng.randrange(len(problem.operands))
            lines = [problem.registers[i], problem.registers[(i + 1) % len(problem.operands)]]
            emit(role, problem.quotation(list(dict.fromkeys(lines))))
        elif role == "filler":
            emit(role, rng.choice(_FILLERS))
        else:
            emit("digression", problem.aside(rng))

    first = rng.choice(("Let me see, the question", "Let me start, the task"))
    trace.segments.append(Segment("restatement", "", first, problem.opening()))
    shares = settings.shares
    careful: list[str] = []  # registers that may be verified: their content is what their operands make
    for name in problem.registers:
        drawn = rng.choices(list(shares), list(shares.values()), k=rng.randint(*settings.redundancy))
        n_errors, others = drawn.count("error"), [r for r in drawn if r != "error"]
        # Checks of this register can only come after it; the rest falls before or after by chance.
        before = [r for r in others if r != "verification" and rng.random() < 0.5]
        after = list(others)
        for role in before:
            after.remove(role)
        if name == problem.registers[-1]:
            # At most one thing after all is done, or the likeliest next thing would never be the end
            before, after = before + after[1:], after[:1]
        left_wrong = n_errors > 0 and rng.random() < settings.careless
        plan = ["error"] * n_errors
        for role in before:
            plan.insert(rng.randint(0, len(plan)), role)
        settled = [n for n in careful if n in found]
        for role in plan:
            if role == "error":
                guess(name)
            else:
                redundant(role, settled)
        if not left_wrong:
            resolve(name, ("correction" if n_errors else "useful") + ("" if name in problem.asked else "_indirect"))
            careful.append(name)
        rng.shuffle(after)
        for role in after:
            redundant(role, list(careful))
    for _ in range(settings.statements):
        emit("statement", problem.statement(found))
    return trace


def sample(settings: WorldSettings, seed: int | str) -> Trace:
    """
    Draws a problem with its teacher trace.

    Args:
        settings (`WorldSettings`):
            The setting.
        seed (`int` or `str`):
            Seed; the same setting name and seed give the same trace on every machine.

    Returns:
        [`Trace`]: the trace with its problem.
    """
    rng = random.Random(f"tiny-world/{settings.name}/{seed}")
    return make_trace(rng, make_problem(rng, settings), settings)


def make_row(settings: WorldSettings, seed: int | str, row_id: str | None = None) -> dict:
    """
    Draws a row in LIMO's columns, plus `id` and `roles`.

    Args:
        settings (`WorldSettings`):
            The setting.
        seed (`int` or `str`):
            Seed, see [`sample`].
        row_id (`str`, *optional*):
            Value of `id`; by default `"NAME-SEED"`.

    Returns:
        `dict`: `id`, `question`, `solution`, `answer` (strings) and `roles` (one string a segment, in order).
    """
    trace = sample(settings, seed)
    return {
        "id": row_id if row_id is not None else f"{settings.name}-{seed}",
        "question": trace.problem.question,
        "solution": trace.solution,
        "answer": trace.problem.answer,
        "roles": [segment.role for segment in trace.segments],
    }


def make_rows(settings: WorldSettings | str, n: int, split: str = "train", start: int = 0) -> Iterator[dict]:
    """
    Draws `n` rows of a split. Splits never share a seed: `"train"`, `"validation"`, `"traces"`, `"test"` are disjoint.

    Args:
        settings (`WorldSettings` or `str`):
            The setting, or the name of one of [`SETTINGS`].
        n (`int`):
            Number of rows.
        split (`str`, defaults to `"train"`):
            Name of the split; any string.
        start (`int`, defaults to `0`):
            Index of the first row.

    Yields:
        `dict`: rows as [`make_row`] makes them, with ids `"NAME-INDEX"`.
    """
    if isinstance(settings, str):
        settings = get_settings(settings)
    for index in range(start, start + n):
        yield make_row(settings, f"{split}/{index}", f"{settings.name}-{index}")


def get_settings(name: str, **changes) -> WorldSettings:
    """
    Looks a setting up by name.

    Args:
        name (`str`):
            One of [`SETTINGS`].
        **changes:
            Fields of [`WorldSettings`] to change.

    Returns:
        [`WorldSettings`]: the setting.
    """
    if name not in SETTINGS:
        raise ValueError(
            f"Unknown setting {name!r}; choose one of {sorted(SETTINGS)} or build a `WorldSettings` yourself."
        )
    return replace(SETTINGS[name], **changes)


def split_segments(reasoning: str) -> list[str]:
    """
    Cuts reasoning at the blank lines before an opening keyword. The blank line belongs to the segment it opens.

    Args:
        reasoning (`str`):
            What stands between `<think>\\n` and `\\n</think>`.

    Returns:
        `list[str]`: segments; joined they give `reasoning` back.
    """
    cuts = [0, *(m.start() for m in _BOUNDARY.finditer(reasoning)), len(reasoning)]
    return [reasoning[a:b] for a, b in itertools.pairwise(cuts)]


def parse_solution(solution: str) -> tuple[str, str | None]:
    """
    Takes an output apart.

    Args:
        solution (`str`):
            Output of a teacher or a model, with or without the closing tag.

    Returns:
        `tuple[str, str | None]`: the reasoning, and what stands in the last `\\boxed{}` after `</think>` (`None`
        without one).
    """
    head, closed, tail = solution.partition("</think>")
    reasoning = head.removeprefix("<think>\n").removesuffix("\n")
    boxes = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", tail) if closed else []
    return reasoning, boxes[-1].strip() if boxes else None


def parse_answer(boxed: str) -> dict[str, str]:
    """
    Takes the contents of a box apart.

    Args:
        boxed (`str`):
            What stands in the box, `\\text{alpha=ruby, gamma=jade}`.

    Returns:
        `dict[str, str]`: content by register, as far as the text has this form.
    """
    return dict(re.findall(r"(\w+)=(\w+)", boxed))


def role_of(segment: str) -> str | None:
    """
    Reads the role off a segment's announcement, also in text a model wrote.

    Args:
        segment (`str`):
            Text of a segment as [`split_segments`] cuts it.

    Returns:
        `str` or `None`: the role; `"useful"` for both kinds of useful (they differ by the question, not by the text),
        `None` where no announcement stands.
    """
    text = segment.removeprefix("\n\n")
    for phrase in sorted(OPENINGS.values(), key=len, reverse=True):
        if text.startswith(f"{phrase}, "):
            text = text[len(phrase) + 2 :]
            break
    else:
        return "restatement" if text.startswith("Let me s") else None
    for role, phrases in _ANNOUNCEMENTS.items():
        if any(text.startswith(f"{phrase} ") for phrase in phrases):
            return role
    return None


def main(settings: list[str], default: str, make: Callable[[str, str], dict]) -> None:
    """
    Prints one trace with the role of each segment.

    Args:
        settings (`list[str]`):
            Names of settings to choose from.
        default (`str`):
            The one that is taken otherwise.
        make (`Callable`):
            Makes a row of a setting and a seed.
    """
    parser = argparse.ArgumentParser(description="Print one teacher trace with the role of each segment.")
    parser.add_argument("--setting", default=default, choices=settings)
    parser.add_argument("--seed", default="0")
    args = parser.parse_args()
    row = make(args.setting, args.seed)
    print(row["question"] + PROMPT_SUFFIX)
    for role, text in zip(row["roles"], split_segments(parse_solution(row["solution"])[0]), strict=True):
        print(f"{role:>16} | {text.removeprefix(chr(10) * 2)}")
    print(f"{'answer':>16} | {row['answer']}")


if __name__ == "__main__":
    main(sorted(SETTINGS), "repetition", lambda setting, seed: make_row(SETTINGS[setting], seed))
