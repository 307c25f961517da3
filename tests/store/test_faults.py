"""The fault script in tests/store/faults.py, run small."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("can_mount", [True, False])
def test_killed_runs_and_full_disks_lose_nothing(tmp_path, can_mount):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 20
    if not can_mount:  # what a machine does that lets nobody mount; the kills are the first case's
        kills = 2
        (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "unshare").chmod(0o755)
        environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    script = Path(__file__).with_name("faults.py")
    command = [sys.executable, str(script), "--kills", str(kills), "--traces", "100"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    print(done.stdout)
    killed, lost, redone, most = re.search(
        r"killed (\d+) runs .*: lost (\d+), redone (\d+) of 100 traces, at most (\d+) per process and kill",
        done.stdout,
    ).groups()
    assert (int(killed), int(lost)) == (kills, 0)
    # A run with two processes has two traces in hand
    assert int(most) <= 1 and int(redone) <= 2 * kills
    assert f"killed {kills} moves into the final files: lost 0" in done.stdout
    assert re.search(r"KiB: \d+ of 100 traces stored, then: .*row \d+ could not be stored", done.stdout)
    assert can_mount == ("All 100 rows are safe and can be read" in done.stdout)
    assert can_mount or "by a limit on the size of a file" in done.stdout
    assert "equal to that of an uninterrupted run: 3 of 3" in done.stdout
