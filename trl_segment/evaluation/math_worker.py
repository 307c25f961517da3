r"""
Math-Verify in a process of its own, started as `python -m trl_segment.evaluation.math_worker`.

Math-Verify stops itself with a signal, which Python only looks at between two of its own instructions: a long
computation in C, such as a huge power, keeps a process busy for good. A process can be killed.

Each line of the standard input is a JSON list of the right answer, the given one (or `null`) and the text to look for
it in; each line of the output says what came of it.
"""

import json
import sys


def compare(gold: str, given: str | None, text: str) -> dict:
    r"""
    Compare two answers with Math-Verify.

    Args:
        gold (`str`):
            The right answer, LaTeX without delimiters.
        given (`str` or `None`):
            The answer to check, LaTeX without delimiters. `None`: to be found in `text`.
        text (`str`):
            Text that may state the answer in words (`the final answer is $5$`).

    Returns:
        `dict`: `verdict` (see [`~trl_segment.evaluation.Verdict`]) and `answer`, what was compared.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    try:
        right = parse(f"\\boxed{{{gold}}}", raise_on_error=True)
        if given is None:
            # Only what is announced as the answer: the last number of a text that was cut off is not one
            anchored = [
                LatexExtractionConfig(try_extract_without_anchor=False),
                ExprExtractionConfig(try_extract_without_anchor=False),
            ]
            found = parse(text, anchored, raise_on_error=True)
            if not found:
                return {"verdict": "no answer", "answer": None}
            given = str(found[-1])
        else:
            found = parse(f"\\boxed{{{given}}}", raise_on_error=True)
        if not found:
            return {"verdict": "unreadable", "answer": given}
        correct = verify(right, found, raise_on_error=True)
        return {"verdict": "correct" if correct else "wrong", "answer": given}
    except TimeoutException:
        return {"verdict": "timeout", "answer": given}
    except RecursionError:
        return {"verdict": "crash", "answer": given}
    except Exception as error:
        return {"verdict": "crash", "answer": given, "error": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Answer requests until the input ends."""
    import logging

    logging.disable(logging.CRITICAL)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not get between the answers
    compare("1", "1", "")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(compare(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
