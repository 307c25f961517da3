"""Memory over the number of traces, through store, selection and collator; 200,000 of them are a benchmark."""

import json
import subprocess
import sys

import pytest
from helpers import REPOSITORY


SCALE = REPOSITORY / "benchmarks" / "scale.py"


@pytest.mark.slow
def test_memory_grows_by_what_is_stored_of_a_trace(tmp_path):
    command = [sys.executable, str(SCALE), "--sizes", "500", "2000", "--json", str(tmp_path / "rows.json")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    few, many = json.loads((tmp_path / "rows.json").read_text())
    assert (few["traces"], many["traces"]) == (500, 2000)
    # Two bytes a segment and a mapped key and name: a million traces take some hundred MiB
    assert many["table_mib"] / 2000 * 1_000_000 < 150
    assert many["peak_gib"] - few["peak_gib"] < 0.1
    assert many["peak_gib"] < 2
