"""The notebook, run cell by cell as Jupyter runs it, in a folder of its own."""

import json
import re

import pandas
import pytest
from helpers import REPOSITORY


NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"


def test_it_carries_no_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert {cell["cell_type"] for cell in cells} == {"markdown", "code"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    # As in Colab: a clone beside the notebook
    (tmp_path / "trl-segment").symlink_to(REPOSITORY)
    # The package of this checkout, whatever else is installed
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = {}
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            assert output.output_type != "error", output
            shown[number] = shown.get(number, "") + output.get("text", "") + str(output.get("data", {}))
    text = "\n".join(shown.values())
    rows = [json.loads(line) for line in (tmp_path / "quickstart" / "traces.jsonl").read_text().splitlines()]
    assert f"{len(rows)} attributed with" in text and f"{len(rows)} rows, " in text
    assert "<iframe srcdoc=" in text
    # What is exported is what was trained: three steps over whole rows, of which these are the labels
    exported = pandas.read_parquet(tmp_path / "quickstart" / "labels.parquet")
    trained = sum((labels != -100).sum() for labels in exported["labels"])
    assert f"{len(rows)} rows, {trained} of {exported['labels'].map(len).sum()} tokens trained" in text
    shares = [float(share) for share in re.findall(r"'trained_token_share': ([\d.]+)", text)]
    assert len(shares) == 3 and all(0 < share < 1 for share in shares)
    assert (tmp_path / "quickstart" / "model" / "model.safetensors").is_file()
