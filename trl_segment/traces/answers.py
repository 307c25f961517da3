"""Find the final answer of a completion."""

import re


def extract_boxed(text: str) -> str | None:
    r"""
    Content of the last complete `\boxed{...}` in `text`, nested braces included.

    Args:
        text (`str`):
            Text of a solution.

    Returns:
        `str` or `None`: What stands inside the braces, without surrounding white space; `None` if there is no box.

    Examples:
    ```python
    >>> extract_boxed(r"so \boxed{1}, no, \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    ```
    """
    last = None
    for match in re.finditer(r"\\boxed\s*\{", text):
        depth, position = 1, match.end()
        while position < len(text) and depth:
            if text[position] == "\\":  # `\{` and `\}` are printed braces, they open and close nothing
                position += 1
            elif text[position] == "{":
                depth += 1
            elif text[position] == "}":
                depth -= 1
            position += 1
        if depth == 0:
            last = text[match.end() : position - 1].strip()
    return last


def extract_answer(text: str) -> str | None:
    r"""
    Final answer of a solution: the last `\boxed{...}`, else what follows the last `####` (the form of GSM8K).

    Args:
        text (`str`):
            Text of a solution.

    Returns:
        `str` or `None`: The answer, possibly empty; `None` if the text holds neither form.
    """
    boxed = extract_boxed(text)
    if boxed is not None:
        return boxed
    hashes = re.findall(r"^####[ \t]*(.*?)[ \t]*\r?$", text, flags=re.MULTILINE)
    return hashes[-1] if hashes else None
