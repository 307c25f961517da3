"""
Matches of a regular expression, found in a process of its own: run as a file, so that it starts at once.

Python's `re` can take longer than anybody waits, and nothing but the end of its process stops it. Another engine with
a time limit would read some patterns in another way.
"""

import json
import re
import sys


def main() -> None:
    """Answer requests, each a pattern and a text, with the starts of the matches."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        pattern, text = json.loads(line)
        try:
            found = [match.start() for match in re.finditer(pattern, text)]
        except (re.error, RecursionError, MemoryError, OverflowError) as error:
            found = f"{type(error).__name__}: {error}"  # type: ignore[assignment]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
