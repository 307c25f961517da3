import re

import pytest

from trl_segment.cli import main as cli


@pytest.fixture
def refused(capsys):
    """Runs a line that must end in one line on stderr, which a pattern is found in. Returns that line."""

    def run(pattern, line):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in (line.split() if isinstance(line, str) else line)])
        assert stop.value.code == 2
        (shown,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("trl-segment")]
        assert re.search(pattern, shown), shown
        return shown

    return run
