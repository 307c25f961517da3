"""Attribution on a pretrained model: SmolLM2-135M-Instruct, from the folder that `TRL_SEGMENT_REAL_MODEL` names."""

import json
import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY


FOLDER = os.environ.get("TRL_SEGMENT_REAL_MODEL")

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="no real model: `TRL_SEGMENT_REAL_MODEL` names no folder"),
]


def test_the_default_agrees_with_a_finer_integral_and_the_published_path_does_not(tmp_path):
    """One short trace: on all tokens the published sum is not settled, on the reasoning the default is near."""
    command = [
        *(sys.executable, REPOSITORY / "benchmarks" / "real_model.py", "--model", FOLDER, "--count", "1"),
        *("--dtypes", "float32", "--procedures", "published", "default", "--json", tmp_path / "measured.json"),
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    measured = {m["procedure"]: m for m in json.loads((tmp_path / "measured.json").read_text())}
    assert measured["published"]["evaluations"] == 50
    assert measured["default"]["evaluations"] <= 32
    assert not measured["published"]["settled"]
    assert measured["default"]["token_correlation"] > 0.9
    assert measured["default"]["gap"] < 0.35
