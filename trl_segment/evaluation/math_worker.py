r"""
Math-Verify in a process of its own, started as `python -m trl_segment.evaluation.math_worker`.

Math-Verify stops itself with a signal, which Python only looks at between two of its own instructions: a long
computation in C, such as a huge power, keeps a process busy for good. A process can be killed.

A request is a list of the right answer and the given one; the answer says what came of it.
"""

import json
import logging
import sys

from ..workers import serve


def compare(gold: str, given: str) -> dict:
    r"""
    Compare two answers with Math-Verify.

    Args:
        gold (`str`):
            The right answer, LaTeX without delimiters.
        given (`str`):
            The answer to check, LaTeX without delimiters.

    Returns:
        `dict`: `verdict` (see [`~trl_segment.evaluation.Verdict`]) and, where it failed, `error`.
    """
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    try:
        right = parse(f"\\boxed{{{gold}}}", raise_on_error=True)
        found = parse(f"\\boxed{{{given}}}", raise_on_error=True)
        if not found:
            return {"verdict": "unreadable"}
        # `|x| < 1` is a set that may be given for `(-1,1)`
        correct = verify(right, found, allow_set_relation_comp=True, raise_on_error=True)
        return {"verdict": "correct" if correct else "wrong"}
    except TimeoutException:
        return {"verdict": "timeout"}
    except (Exception, RecursionError) as error:
        return {"verdict": "crash", "error": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Answer requests until the input ends."""
    logging.disable(logging.CRITICAL)
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        print(
            json.dumps(
                f"Answers are compared with Math-Verify, which does not start ({error}). Install it: pip install "
                "math-verify"
            )
        )
        sys.exit(1)
    sys.set_int_max_str_digits(0)  # a number of any length: who takes too long is killed
    compare("1", "1")
    serve(lambda request: compare(*request))


if __name__ == "__main__":
    main()
