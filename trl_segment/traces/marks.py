"""Where a model's reasoning begins and ends: the marks that models put around it, and what is taken without any."""

import re
from typing import NamedTuple

from .answers import extract_answer, marked_answer


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
    """

    start: int
    end: int
    response: int
    closing: str | None


def _tags(*names: str) -> tuple[Marks, ...]:
    spellings = dict.fromkeys(spelled for name in names for spelled in (name, name.capitalize(), name.upper()))
    return tuple(Marks(f"<{name}>", f"</{name}>") for name in spellings)


DEFAULT_CLOSING = "</think>"
# The first whose opening mark begins the completion counts, else the one whose closing mark comes first
KNOWN_MARKS = (
    *_tags("think", "thinking", "thought", "reasoning"),
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThoughts, Sky-T1
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<longcat_think>", "</longcat_think>"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks("<|im_start|>think", "<|im_start|>answer"),  # s1K
    Marks("<|channel>thought", "<channel|>", pair=True),  # Gemma 4
    Marks(  # gpt-oss, and the same decoded without its special tokens
        "<|channel|>analysis<|message|>", "<|end|>", True, "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    Marks("analysis", "assistantfinal", pair=True),
    Marks("Here is my thought process:", "Here is my response:", pair=True),  # Granite
)
# Words that begin a text by chance are marks only where their closing mark is there too
_PLAIN_WORDS = ("analysis", "Here is my thought process:")

_HEAD = re.compile(r"\s*(?:(?:<\|im_start\|>|<\|start\|>)assistant\s*)?")
# The header of an assistant's turn in a rendered chat. A final channel of gpt-oss continues the turn.
_HEADER = re.compile(
    r"(?:<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|(?i:assistant)\|>|<｜Assistant｜>"
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
_QUESTION = re.compile(r"\s*(?:q|question|problem)\s?:", re.IGNORECASE)
_REPLY = re.compile(r"(?<!\w)(?:a|answer|solution)\s?:\s*", re.IGNORECASE)
_BLANK_LINES = re.compile(r"(?:\r?\n)(?:[ \t]*\r?\n)+")
_LAST_PARAGRAPHS = 3
_QUOTES = "`'\""
_HEADING = re.compile(r"[#*_\s]*(?:the )?(?:final )?(?:answer|solution|conclusion)[*_:\s]*", re.IGNORECASE)


def find_reasoning(completion: str, own: Marks | None = None, answer: str | None = None) -> Reasoning:
    """
    The reasoning in a completion.

    Between the marks of a known form ([`KNOWN_MARKS`]); up to the closing mark where only that is there; behind the
    opening mark where generation was cut. Without marks everything in front of the last paragraph that states the
    answer, if that is one of the last three, else everything.

    Args:
        completion (`str`):
            Text that a model wrote.
        own ([`Marks`], *optional*):
            Marks that are looked for first.
        answer (`str`, *optional*):
            The right answer, if it is known: without marks a last paragraph that names it states the answer too.

    Returns:
        [`Reasoning`]: Where it lies, marks excluded.
    """
    known = KNOWN_MARKS if own is None else (own, *KNOWN_MARKS)
    head = _HEAD.match(completion).end()  # type: ignore[union-attr]
    for marks in known:
        if marks.start is not None and completion.startswith(marks.start, head if marks.start else 0):
            start = head + len(marks.start) if marks.start else 0
            found = _closed(completion, start, marks)
            if found is not None or marks.start not in _PLAIN_WORDS:
                return found or Reasoning(start, len(completion), len(completion), _closing(marks))
    candidates = []
    for marks in known:
        if marks.end is None:
            continue
        end = _find(completion, marks.end, 0)
        opening = completion.find(marks.start, 0, end) if marks.start and end >= 0 else -1
        if end >= 0 and (opening >= 0 or not marks.pair) and marks.start not in _PLAIN_WORDS:
            start = opening + len(marks.start or "") if opening >= 0 else 0
            candidates.append(Reasoning(start, end, end + len(marks.end), _closing(marks)))
            if marks is own:
                break
    if candidates:
        return min(candidates, key=lambda found: found.end)
    end = _end_without_marks(completion, answer)
    return Reasoning(0, end, end, None)


def _find(text: str, mark: str, start: int) -> int:
    """Where a mark first stands that is not only quoted; -1 if there is none."""
    first = place = text.find(mark, start)
    while place >= 0:
        before, behind = text[place - 1 : place], text[place + len(mark) : place + len(mark) + 1]
        if not (before and before == behind and before in _QUOTES):
            return place
        place = text.find(mark, place + 1)
    return first


def _closed(completion: str, start: int, marks: Marks) -> Reasoning | None:
    closers = [marks] if marks.end is not None else [known for known in KNOWN_MARKS if not known.pair]
    ends = [(_find(completion, str(closer.end), start), closer) for closer in closers]
    found = min(((end, closer) for end, closer in ends if end >= 0), default=None, key=lambda pair: pair[0])
    if found is None and marks.end is not None and not marks.pair:
        # `<think>` that `</thinking>` or `</Think>` closes: else the answer would be part of the reasoning
        return _closed(completion, start, Marks(marks.start, None))
    if found is None:
        return None
    end, closer = found
    return Reasoning(start, end, end + len(str(closer.end)), _closing(closer))


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
        `str` or `None`: The mark; `None` if there is none.
    """
    text = completion.lstrip()
    return next(
        (str(marks.start) for marks in KNOWN_MARKS if not marks.pair and text.startswith(str(marks.start))), None
    )


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
        does not say.
    """
    if own is not None and own.start == "":
        return 0
    headers = list(_HEADER.finditer(text))
    if headers:
        return headers[-1].end()
    opening = _opening_of_last_turn(text, own)
    reply = _reply_of_last_turn(text, -1 if opening is None else opening)
    if reply is not None or opening is not None:
        return opening if reply is None else reply
    question = _QUESTION.match(text)
    answer = _REPLY.search(text, question.end()) if question else None
    return answer.end() if answer else None


def asks_again(text: str, start: int) -> bool:
    """
    Whether a rendered chat goes on with another turn of the user.

    Args:
        text (`str`):
            The text.
        start (`int`):
            Where the last response of the assistant begins.

    Returns:
        `bool`: Whether there is a header of a user's turn behind it.
    """
    return _USER_HEADER.search(text, start) is not None


def _opening_of_last_turn(text: str, own: Marks | None) -> int | None:
    """The last of several turns. A reasoning may speak of its own mark: the first behind the turn before."""
    for marks in KNOWN_MARKS if own is None else (own, *KNOWN_MARKS):
        if marks.start and marks.start not in _PLAIN_WORDS and marks.start in text:
            last = -1 if marks.end is None else text.rfind(marks.end)
            before = text.rfind(str(marks.end), 0, last) if last > 0 else -1
            opening = text.find(marks.start, max(before, 0))
            return opening if opening >= 0 else text.rfind(marks.start)
    return None


def _reply_of_last_turn(text: str, opening: int) -> int | None:
    """
    Behind the header of the last turn that replies to somebody. A header in a reasoning replies to nobody; marks in
    front of the question belong to an instruction (`Put your reasoning into <think> </think>`).
    """
    place, asked, user = None, True, -1
    for turn in _TURN.finditer(text):
        if turn["user"] is not None:
            asked, user = True, turn.start()
        elif asked and (opening < 0 or turn.start() < opening or user > opening):
            place, asked = turn.end(), False
    return place
