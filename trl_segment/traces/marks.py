"""Where a model's reasoning begins and ends: the marks that models put around it, and what is taken without any."""

import bisect
import functools
import re
from typing import NamedTuple

from .answers import extract_answer, marked_answer


Span = tuple[int, int]


class Marks(NamedTuple):
    """
    What stands around a reasoning.

    Args:
        start (`str` or `None`):
            Opens it; `""` for the beginning of the completion. `None`: only `end` is looked for.
        end (`str` or `None`):
            Closes it. `None`: any known closing mark does.
        pair (`bool`, *optional*, defaults to `False`):
            Whether `end` means something only behind `start`. `end` is enough for other forms: the R1 distills write
            it alone, since their prompt holds the opening one.
        closing (`str`, *optional*):
            What ends the reasoning and opens the response where that is more than `end`.
    """

    start: str | None
    end: str | None
    pair: bool = False
    closing: str | None = None


class Reasoning(NamedTuple):
    """
    Where the reasoning of a completion lies.

    Args:
        start (`int`):
            Its first character, behind the opening mark.
        end (`int`):
            Where it ends, in front of the closing mark.
        response (`int`):
            Where the response begins, behind the closing mark.
        closing (`str` or `None`):
            What ends the reasoning and opens the response in this form; `None` where there are no marks.
        parts (`tuple[tuple[int, int], ...]`, *optional*):
            Character spans of the messages that the reasoning is made of, where it is more than one: what lies between
            them are marks.
        problem (`str`, *optional*):
            Why it is not sure that this is the reasoning.
    """

    start: int
    end: int
    response: int
    closing: str | None
    parts: tuple[tuple[int, int], ...] = ()
    problem: str | None = None


def _tags(*names: str) -> tuple[Marks, ...]:
    spellings = dict.fromkeys(spelled for name in names for spelled in (name, name.capitalize(), name.upper()))
    return tuple(Marks(f"<{name}>", f"</{name}>") for name in spellings)


DEFAULT_CLOSING = "</think>"
_GRANITE = [
    Marks(f"{opening} my thought process:", f"{closing} my response:", pair=True)
    for opening in ("Here is", "Here's")
    for closing in ("Here is", "Here's")
]
# The first whose opening mark begins the completion counts, else the one whose closing mark comes first
KNOWN_MARKS = (
    *_tags("think", "thinking", "thought", "reasoning", "scratchpad"),
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThoughts, Sky-T1
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<longcat_think>", "</longcat_think>"),
    Marks("<|thinking|>", "<|/thinking|>"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks("<unused94>thought", "<unused95>"),  # MedGemma
    Marks("[unused16]", "[unused17]"),  # openPangu
    Marks("<|im_start|>think", "<|im_start|>answer"),  # s1K
    Marks("<|channel>thought", "<channel|>", pair=True),  # Gemma 4
    Marks(  # gpt-oss, and the same decoded without its special tokens
        "<|channel|>analysis<|message|>", "<|end|>", True, "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    Marks("analysis", "assistantfinal", pair=True),
    Marks("## Thinking", "## Final Response", pair=True),  # HuatuoGPT-o1
    *_GRANITE,
)
# Words that begin a text by chance are marks only where their closing mark is there too
_PLAIN_WORDS = ("analysis", "## Thinking", *(marks.start for marks in _GRANITE))

# Headers of assistants' turns, in front of a completion
_HEAD = re.compile(r"\s*(?:(?:<\|im_start\|>assistant(?:<\|im_sep\|>)?|<\|start\|>assistant)\s*)?")
# The header of an assistant's turn in a rendered chat. A final channel of gpt-oss continues the turn.
_HEADER = re.compile(
    r"(?:<\|im_start\|>assistant(?:<\|im_sep\|>)?|<\|start_header_id\|>assistant<\|end_header_id\|>"
    r"|<\|(?i:assistant)\|>|<｜Assistant｜>"
    r"|<\|header_start\|>assistant<\|header_end\|>|\[/INST\]|<start_of_turn>model|<\|turn>model|\[\|assistant\|\]"
    r"|<\|start_of_role\|>assistant<\|end_of_role\|>|<\|CHATBOT_TOKEN\|>|<seed:bos>assistant"
    r"|<\|start\|>assistant(?!<\|channel\|>(?:final|commentary)))\s*"
)
# Turns of a chat in plain text
_TURN = re.compile(
    r"(?P<user>^[#* ]{0,6}(?i:user|human|instruction|question|problem|input)[* ]{0,3}:|(?<!\w)(?:User|USER|Human) ?:)"
    r"|(?P<reply>(?:^[#* ]{0,6}(?i:assistant|response|gpt|chatgpt|model|ai|bot)[* ]{0,3}:"
    r"|^#{1,6} (?i:assistant|response)[ ]*$|(?<!\w)(?:Assistant|ASSISTANT) ?:)[*]{0,2}\s*)",
    re.MULTILINE,
)
_USER_HEADER = re.compile(
    r"<\|im_start\|>user|<\|start_header_id\|>user<\|end_header_id\|>|<\|(?i:user)\|>|<｜User｜>|<start_of_turn>user"
    r"|<\|turn>user|<\|header_start\|>user<\|header_end\|>|<\|start\|>user<\|message\|>"
)
# What headers of turns are made of in a form that nobody has named yet
_SPECIAL = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>|\[/?INST\]")
_QUESTION = re.compile(r"\s*(?:q|question|problem)\s?:", re.IGNORECASE)
_REPLY = re.compile(r"(?<!\w)(?:a|answer|solution)\s?:\s*", re.IGNORECASE)
_BLANK_LINES = re.compile(r"(?:\r?\n)(?:[ \t]*\r?\n)+")
_LAST_PARAGRAPHS = 3
_QUOTES = ("``", "''", '""', "“”", "‘’", "«»", "()")
_HEADING = re.compile(r"[#*_\s]*(?:the )?(?:final )?(?:answer|solution|conclusion)[*_:\s]*", re.IGNORECASE)

# A text speaks of a mark where these words stand beside it on the same line
_SPEAKS_BEFORE = re.compile(
    r"(?<!\w)(?:an|and|between|by|called|clos(?:es?|ing)|emits?|in|inside|into|like|named|open(?:s|ing)?|or|outputs?|put"
    r"|tags?|tokens?|the|us(?:es?|ing)|via|with|within|writ(?:es?|ing)|wrote)[ ][`'\"“‘]?\Z",
    re.IGNORECASE,
)
_SPEAKS_BEHIND = re.compile(
    r"[`'\"”’]?[ ]?(?:tags?|tokens?|marks?|markers?|delimiters?|blocks?|symbols?|elements?|sections?)(?!\w)",
    re.IGNORECASE,
)
# What an instruction writes between two marks (`<think>...</think>`, `<think> your reasoning here </think>`)
_PLACEHOLDER = (
    r"\s*(?:(?:\.{2,}|…|and|or|to|/|,|\||\{[^{}\n]{1,60}\}|\[[^\[\]\n]{1,60}\]"
    r"|[\[{(]?(?:put |write )?(?:your |the |my )?(?:step[- ]by[- ]step |internal |detailed )?"
    r"(?:reasoning|thinking|thoughts?|thought)(?: process)?(?: goes)?(?: here)?[\]})]?)\s*)?"
)
_NEAR = 24
# What can stand between two messages of one reasoning
_BETWEEN_MESSAGES = re.compile(r"\s*(?:<\|start\|>assistant)?\s*")
# The same in gpt-oss's form without special tokens; a commentary is no reasoning
_NEXT_MESSAGE = re.compile(r"assistant(?:analysis|(?P<commentary>commentary))")

_UNSURE_CLOSING = "the closing mark of the reasoning stands in it several times"
_SPOKEN_CLOSING = "the closing mark of the reasoning is only spoken of"
_UNSURE_OPENING = "it is not sure that the opening mark of the reasoning is more than spoken of"
_SEVERAL_PARTS = "there are several parts of reasoning with other text between them"


def find_reasoning(completion: str, own: Marks | None = None, answer: str | None = None) -> Reasoning:
    """
    The reasoning in a completion.

    Between the marks of a known form ([`KNOWN_MARKS`]); up to the closing mark where only that is there; behind the
    opening mark where generation was cut. Marks that the text only speaks of are none. Without marks everything in
    front of the last paragraph that states the answer, if that is one of the last three, else everything.

    Args:
        completion (`str`):
            Text that a model wrote.
        own ([`Marks`], *optional*):
            Marks that are looked for first.
        answer (`str`, *optional*):
            The right answer, if it is known: without marks a last paragraph that names it states the answer too.

    Returns:
        [`Reasoning`]: Where it lies, marks excluded, with `problem` set where that is not sure.
    """
    known = KNOWN_MARKS if own is None else (own, *KNOWN_MARKS)
    head = _HEAD.match(completion).end()  # type: ignore[union-attr]
    for marks in known:
        if marks.start is None:
            continue
        opening = _pattern(marks.start).match(completion, head if marks.start else 0)
        if opening is not None:
            found = _closed(completion, opening.end(), marks)
            if found is not None or marks.start not in _PLAIN_WORDS:
                return found or _cut(completion, opening.end(), marks)
    candidates = []
    for marks in known:
        if marks.end is None or marks.start in _PLAIN_WORDS or marks.end not in completion:
            continue
        places = _places(completion, marks)
        first = next((place for place, is_opening in places if is_opening), None)
        closing = next((place for place, is_opening in places if not is_opening), None)
        if closing is None or (first is None and marks.pair):
            continue
        if first is None or closing[0] < first[0]:
            found = None if marks.pair else _joined(completion, 0, marks, places)
        else:
            found = _joined(completion, first[1], marks, [(p, o) for p, o in places if p[0] > first[0]])
            if found is not None and not _begins_something(completion, first[0]):
                found = found._replace(problem=_UNSURE_OPENING)
        if found is not None:
            candidates.append(found)
            if marks is own:
                break
    if candidates:
        return min(candidates, key=lambda found: found.end)
    end = _end_without_marks(completion, answer)
    return Reasoning(0, end, end, None)


@functools.lru_cache(maxsize=256)
def _pattern(mark: str) -> re.Pattern:
    """A mark as a pattern. A tag may have attributes: `<think time=5>`."""
    attributes = r"(?: [^<>\n=]{1,40}=[^<>\n]{0,100})?>" if re.fullmatch(r"<[\w:]+>", mark) else ""
    return re.compile(re.escape(mark.removesuffix(">") if attributes else mark) + attributes)


@functools.lru_cache(maxsize=256)
def _spoken_pair(opening: str, closing: str) -> re.Pattern:
    """Both marks with next to nothing between them, or in quotes together: an instruction speaks of them."""
    opens, closes = _pattern(opening).pattern, re.escape(closing)
    quoted = "|".join(rf"{left}{opens}[^\n]{{0,200}}?{closes}{right}" for left, right in ("``", "''", '""', "“”"))
    return re.compile(rf"{quoted}|{opens}(?i:{_PLACEHOLDER}){closes}")


def _places(text: str, marks: Marks, begin: int = 0) -> list[tuple[Span, bool]]:
    """
    Where marks of a form stand that the text does not only speak of: their spans, and whether they open.

    The mark that stands at `begin`, if one does, is left to the caller, who knows that it opens the reasoning.
    """
    end = str(marks.end)
    pattern = rf"(?P<opening>{_pattern(marks.start).pattern})|{re.escape(end)}" if marks.start else re.escape(end)
    spoken = _spoken_pair(marks.start, end).finditer(text, begin) if marks.start else iter(())
    pair, places = next(spoken, None), []
    for match in re.compile(pattern).finditer(text, begin):
        start, stop = match.span()
        while pair is not None and pair.end() < stop:
            pair = next(spoken, None)
        if (pair is None or start < pair.start()) and not _spoken_of(text, start, stop):
            places.append(((start, stop), bool(marks.start) and match["opening"] is not None))
    return places


def _spoken_of(text: str, start: int, stop: int) -> bool:
    """Whether a mark is quoted, or named in a sentence."""
    before, behind = text[max(start - _NEAR, 0) : start], text[stop : stop + _NEAR]
    quoted = bool(before) and before[-1] + behind[:1] in _QUOTES
    return quoted or _SPEAKS_BEFORE.search(before) is not None or _SPEAKS_BEHIND.match(behind) is not None


def _begins_something(text: str, place: int) -> bool:
    """Whether a line, a sentence or what is announced begins there."""
    before = text[max(place - _NEAR, 0) : place].rstrip(" ")
    return not before or before[-1] in "\n.:?!>]"


def _closed(completion: str, start: int, marks: Marks) -> Reasoning | None:
    """The reasoning behind an opening mark, up to what closes it; `None` if nothing does."""
    if marks.end is not None:
        found = _joined(completion, start, marks, _places(completion, marks, start))
        if found is not None or marks.pair:
            return found
    # `<think>` that `</thinking>` or `</Think>` closes: else the answer would be part of the reasoning
    closers = [known for known in KNOWN_MARKS if not known.pair and known.end != marks.end]
    ends = [(place[0], closer) for closer in closers if (place := _first_closing(completion, start, closer))]
    if not ends:
        return None
    end, closer = min(ends, key=lambda pair: pair[0])
    return Reasoning(start, end, end + len(str(closer.end)), _closing(closer))


def _first_closing(text: str, start: int, marks: Marks) -> Span | None:
    end = str(marks.end)
    place = text.find(end, start)
    while place >= 0 and _spoken_of(text, place, place + len(end)):
        place = text.find(end, place + 1)
    return (place, place + len(end)) if place >= 0 else None


def _cut(completion: str, start: int, marks: Marks) -> Reasoning:
    """A reasoning that nothing closes, since its generation was cut."""
    problem = _SPOKEN_CLOSING if marks.end is not None and marks.end in completion[start:] else None
    return Reasoning(start, len(completion), len(completion), _closing(marks), (), problem)


def _joined(text: str, start: int, marks: Marks, places: list[tuple[Span, bool]]) -> Reasoning | None:
    """The reasoning that begins at `start`, with the messages that follow it at once; `None` if nothing closes it."""
    # Of each message where it begins, and the marks that may close it. An opening mark in a message opens nothing.
    messages: list[tuple[int, int, list[Span]]] = [(start, start, [])]
    for place, is_opening in places:
        if not is_opening:
            messages[-1][2].append(place)
        elif messages[-1][2]:
            messages.append((*place, []))
    parts: list[Span] = []
    problem, behind = None, start
    for opening, inner, closers in messages:
        if not closers:
            break
        if parts and not _BETWEEN_MESSAGES.fullmatch(text, behind, opening):
            problem = problem or _SEVERAL_PARTS
            break
        closer = closers[0]
        if len(closers) > 1 and not marks.pair:
            alone = [place for place in closers if _alone(text, place)]
            closer = alone[0] if len(alone) == 1 else closer
            problem = problem or (None if len(alone) == 1 else _UNSURE_CLOSING)
        parts.append((inner, closer[0]))
        behind = closer[1]
    if not parts:
        return None
    end = parts[-1][1]
    if marks.start == "analysis":
        found = list(_NEXT_MESSAGE.finditer(text, start, end))
        edges = [start, *(edge for match in found for edge in match.span()), end]
        parts = list(zip(edges[::2], edges[1::2], strict=True))
        problem = problem or (_SEVERAL_PARTS if any(match["commentary"] for match in found) else None)
    return Reasoning(start, end, behind, _closing(marks), tuple(parts) if len(parts) > 1 else (), problem)


def _alone(text: str, place: Span) -> bool:
    """Whether a mark has a line for itself."""
    before, behind = text[max(place[0] - _NEAR, 0) : place[0]], text[place[1] : place[1] + _NEAR]
    return before.rstrip(" ")[-1:] in ("", "\n") and behind.lstrip(" ")[:1] in ("", "\n", "\r")


def _closing(marks: Marks) -> str:
    return marks.closing or marks.end or DEFAULT_CLOSING


def _end_without_marks(completion: str, answer: str | None) -> int:
    """Where the last paragraph that states the answer begins, with headings in front of it."""
    breaks = [match.start() for match in _BLANK_LINES.finditer(completion.rstrip())][-_LAST_PARAGRAPHS:]
    ends = [*breaks[1:], len(completion)]
    while breaks and not _states(completion[breaks[-1] : ends[-1]], answer):
        breaks.pop(), ends.pop()
    while len(breaks) > 1 and _HEADING.fullmatch(completion[breaks[-2] : breaks[-1]][:80]):
        breaks.pop()
    return breaks[-1] if breaks and completion[: breaks[-1]].strip() else len(completion)


def _states(paragraph: str, answer: str | None) -> bool:
    if answer and len(answer) <= 100 and re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", paragraph):
        # Not a step of the reasoning that comes to the same number
        return len(paragraph) <= 300
    return bool(extract_answer(paragraph))


def answer_of_completion(completion: str, found: Reasoning) -> str | None:
    """
    Final answer of a completion: the response's. Only a completion without response is read from its reasoning, and
    there only in a form that nobody uses by the way. Without marks of reasoning the whole completion is read.

    Args:
        completion (`str`):
            Text that a model wrote.
        found ([`Reasoning`]):
            Where its reasoning lies.

    Returns:
        `str` or `None`: See [`~trl_segment.traces.extract_answer`].
    """
    response = completion[found.response :] if found.closing is not None else completion
    return extract_answer(response) if response.strip() else marked_answer(completion[found.start : found.end])


def opening_mark(completion: str) -> str | None:
    """
    The known mark that a completion opens with.

    Args:
        completion (`str`):
            Text that a model wrote.

    Returns:
        `str` or `None`: The mark as it stands there; `None` if there is none.
    """
    text = completion.lstrip()
    found = (_pattern(str(marks.start)).match(text) for marks in KNOWN_MARKS if not marks.pair)
    return next((match[0] for match in found if match is not None), None)


def strip_marks(reasoning: str) -> str:
    """
    A reasoning from a field of its own, without the marks that some write into the field too.

    Args:
        reasoning (`str`):
            The field.

    Returns:
        `str`: What stands between the marks of a known form that it begins and ends with, or begins or ends with.
    """
    text = reasoning.strip()
    for marks in KNOWN_MARKS:
        if marks.pair:
            continue
        opening = _pattern(str(marks.start)).match(text)
        closed = text.endswith(str(marks.end))
        if opening is not None or closed:
            inner = text[opening.end() if opening else 0 : len(text) - len(str(marks.end)) if closed else None]
            return inner if str(marks.end) not in inner else reasoning
    return reasoning


def split_text(text: str, own: Marks | None = None) -> int | None:
    """
    Where the response of the last turn begins in a plain text that holds prompt and response.

    Args:
        text (`str`):
            A rendered chat, or any text with marks of reasoning.
        own ([`Marks`], *optional*):
            Marks that are looked for first.

    Returns:
        `int` or `None`: Behind the last header of an assistant's turn, else at the opening mark; `None` if the text
        does not say, or it is not sure.
    """
    if own is not None and own.start == "":
        return 0
    blocks = _blocks(text, own)
    header = _last_header(text, blocks)
    if header is not None:
        return header
    turns = _turns(text, blocks)
    if turns is None:
        return None
    opening = blocks[-1][0] if blocks else None
    replies = [turn.end() for turn in turns if turn["reply"] is not None]
    if replies:
        asked = opening is not None and any(replies[-1] < turn.start() < opening for turn in turns)
        return opening if asked else replies[-1]
    if opening is not None:
        return opening
    question = _QUESTION.match(text)
    answer = _REPLY.search(text, question.end()) if question else None
    return answer.end() if answer else None


def asks_again(text: str, start: int, own: Marks | None = None) -> bool:
    """
    Whether a text goes on with another turn behind the last response of the assistant.

    Args:
        text (`str`):
            The text.
        start (`int`):
            Where that response begins.
        own ([`Marks`], *optional*):
            Marks that are looked for first.

    Returns:
        `bool`: Whether there is a header of a user's turn behind it, or special tokens of the prompt with words behind
        them.
    """
    if _USER_HEADER.search(text, start) is not None:
        return True
    blocks = _blocks(text, own)
    if any(turn["user"] is not None and turn.start() >= start for turn in _turns(text, blocks) or ()):
        return True
    if _HEADER.search(text, 0, start) is not None:
        return False
    response = max([start, *(block[2] for block in blocks)])
    asked = set(_SPECIAL.findall(text, 0, start))
    return any(
        match[0] in asked and re.search(r"\w", _SPECIAL.sub("", text[match.end() : match.end() + 400]))
        for match in _SPECIAL.finditer(text, response)
    )


def _blocks(text: str, own: Marks | None) -> list[tuple[int, int, int]]:
    """
    Each reasoning in a text of several turns: where its opening mark begins and ends, and the end of its closing mark.
    Those of the form whose first one comes first, if one closes.
    """
    best: list[tuple[int, int, int]] = []
    for marks in KNOWN_MARKS if own is None else (own, *KNOWN_MARKS):
        if not marks.start or marks.start in _PLAIN_WORDS or marks.start.removesuffix(">") not in text:
            continue
        blocks: list[tuple[int, int, int]] = []
        opening: Span | None = None
        behind: int | None = None
        for place, is_opening in _places(
            text, marks if marks.end is not None else marks._replace(end=DEFAULT_CLOSING)
        ):
            if not is_opening and opening is not None:
                behind = place[1]
            elif is_opening and opening is not None and behind is not None:
                if _BETWEEN_MESSAGES.fullmatch(text, behind, place[0]) is None:
                    blocks.append((*opening, behind))
                    opening = place
                behind = None
            elif is_opening and opening is None:
                opening = place
        if opening is not None:
            blocks.append((*opening, behind or len(text)))
        if blocks and (not best or (blocks[0][2] < len(text), -blocks[0][0]) > (best[0][2] < len(text), -best[0][0])):
            best = blocks
        if blocks and marks is own:
            break
    return best


def _last_header(text: str, blocks: list[tuple[int, int, int]]) -> int | None:
    """Behind the header of the last assistant's turn. One in a reasoning is part of it."""
    replies = list(_HEADER.finditer(text))
    users = [match.start() for match in _USER_HEADER.finditer(text)]
    starts = [match.start() for match in replies]

    def in_a_turn(block: tuple[int, int, int]) -> bool:
        # An instruction may speak of the opening mark: behind it the user asks, and the assistant replies
        reply, user = bisect.bisect_left(starts, block[1]), bisect.bisect_left(users, block[1])
        replying = reply > 0 and (user == 0 or starts[reply - 1] > users[user - 1])
        return replying or user == bisect.bisect_left(users, block[2])

    trusted = [block for block in blocks if in_a_turn(block)]
    ends = [match.end() for match in replies if not _inside(match.start(), trusted)]
    return ends[-1] if ends else None


def _inside(place: int, blocks: list[tuple[int, int, int]]) -> bool:
    number = bisect.bisect_left(blocks, place, key=lambda block: block[1]) - 1
    return number >= 0 and place < blocks[number][2]


def _turns(text: str, blocks: list[tuple[int, int, int]]) -> list[re.Match] | None:
    """
    Headers of turns in a plain text; `None` if it is not sure what replies to whom.

    Those in a reasoning are part of it, and a reply replies to somebody. All are spelled like the first ones: a
    reasoning may quote a dialogue. Marks in front of the first question can belong to an instruction.
    """
    turns: list[re.Match] = []
    spelled: set[str] = set()
    asked, replied, waiting = True, False, iter([*blocks, (len(text) + 1,) * 3])
    block = next(waiting)
    for turn in _TURN.finditer(text):
        while turn.start() > block[2]:
            asked, block = False, next(waiting)
        name = turn[0].strip()
        if turn.start() > block[1]:
            in_turn = bool(turns) and turns[-1]["reply"] is not None
            if turn["reply"] is not None and not in_turn and not _begins_something(text, block[0]):
                return None
        elif replied and name not in spelled:
            continue
        elif turn["user"] is not None:
            spelled.add(name)
            asked = True
            turns.append(turn)
        elif asked:
            spelled.add(name)
            asked, replied = False, True
            turns.append(turn)
    return turns
