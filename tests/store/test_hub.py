"""Pushing to and loading from the Hub, against a stand-in on this machine."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import REPOSITORY, card_cells, store_settings
from hub_stand_in import hub_stand_in
from huggingface_hub import CommitOperationDelete

from trl_segment import AttributionStore
from trl_segment.store import StoredAttribution, open_store, push_store


SETTINGS = store_settings(dtype="bfloat16", rule="simpson", baseline="pad", evaluations=64)


class StandInApi:
    """Takes commits to a repository of files of others."""

    def __init__(self, files):
        self.files, self.added, self.deleted = files, [], []

    def create_repo(self, repo_id, **kwargs):
        return SimpleNamespace(repo_id=repo_id)

    def list_repo_files(self, repo_id, **kwargs):
        return list(self.files)

    def hf_hub_download(self, repo_id, name, **kwargs):
        return str(self.files[name])

    def create_commit(self, repo_id, operations, **kwargs):
        for operation in operations:
            kind = self.deleted if isinstance(operation, CommitOperationDelete) else self.added
            kind.append(operation.path_in_repo)
        return SimpleNamespace(commit_url="url")


@pytest.mark.parametrize("readme", ["# My dataset", "---\ntags: []\n---\n\n# Segment attributions\n"])
def test_only_files_of_our_own_names_are_pushed_and_replaced(readme, tmp_path, monkeypatch):
    store = AttributionStore(tmp_path / "store", SETTINGS)
    store.add(StoredAttribution("key", "name", "no reasoning"))
    store.write_array("density", np.ones(2))
    store.compact()
    for name in ("report.json", "secrets.json", "other.arrow", "part-1.arrow", "damaged-part.arrow"):
        (tmp_path / "store" / name).write_text("{}")
    (tmp_path / "README.md").write_text(readme)
    stale = f"part-0001-{'0' * 32}.arrow"
    theirs = {"README.md": tmp_path / "README.md", "data.json": None, "rows.arrow": None, stale: None}
    api = StandInApi(theirs)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: api)
    push_store(tmp_path / "store", "user/store")
    assert api.deleted == [stale]
    (part,) = (path.name for path in (tmp_path / "store").glob("part-0001-*.arrow"))
    card = ["README.md"] if "Segment attributions" in readme else []
    assert api.added == [*card, "array-density.json", part, "settings.json"]


def test_nothing_to_push_and_nothing_to_open_end_in_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no attribution store"):
        push_store(tmp_path, "user/store")
    AttributionStore(tmp_path / "empty", SETTINGS)
    with pytest.raises(ValueError, match="holds no trace"):
        push_store(tmp_path / "empty", "user/store")
    running = AttributionStore(tmp_path / "running", SETTINGS)
    running.add(StoredAttribution("key", "name", "no reasoning"))
    with pytest.raises(RuntimeError, match="A run is still adding to the attribution store"):
        push_store(tmp_path / "running", "user/store")
    with pytest.raises(FileNotFoundError, match="no attribution store at 'user/absent'"):
        open_store("user/absent")  # the suite is offline
    with pytest.raises(FileNotFoundError, match="no attribution store"):
        open_store(tmp_path / "absent")


# Runs in a process of its own, because huggingface_hub reads the endpoint when it is imported
_PUSH_AND_LOAD = r"""
import dataclasses, json, sys
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoTokenizer

from trl_segment import AttributionStore, SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from trl_segment.store import fetch_store, open_store, push_store
from trl_segment.trainer.model_card import card_metadata, complete_card, selection_section

folder = Path(sys.argv[1])
tokenizer = tiny_tokenizer()
tiny_model(tokenizer).save_pretrained(folder / "base")
tokenizer.save_pretrained(folder / "base")
args = SegmentSelectiveSFTConfig(
    str(folder / "out"), max_steps=1, per_device_train_batch_size=2, bf16=False, use_cpu=True, report_to=[],
    disable_tqdm=True, attribution_rule="midpoint", attribution_evaluations=2, learning_rate=0.1, tau=0.4,
    push_to_hub=True, hub_model_id="user/adapter", gradient_checkpointing=False, save_strategy="no",
)
trainer = SegmentSelectiveSFTTrainer(
    str(folder / "base"), args, train_dataset=Dataset.from_list(make_rows(3)),
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
trainer.push_to_hub(dataset_name="user/traces")

ids = torch.tensor([AutoTokenizer.from_pretrained("user/adapter")("What is 3 + 11?")["input_ids"]])
loaded = AutoPeftModelForCausalLM.from_pretrained("user/adapter").eval()
trainer.model.eval()
with torch.no_grad():
    same = torch.equal(loaded(ids).logits, trainer.model(ids).logits)
    with loaded.disable_adapter():
        trained = not torch.equal(loaded(ids).logits, trainer.model(ids).logits)
generated = loaded.generate(input_ids=ids, max_new_tokens=4, do_sample=False)

local = AttributionStore(folder / "out" / "_attributions")
section = selection_section(
    args, trainer.select_segments(local), local, trainer.segment_table.keys, is_adapter=True, model_id="user/adapter"
)
card = complete_card((folder / "out" / "README.md").read_text(), section, card_metadata(True))
url = push_store(local.path, "user/attributions", private=True)
fetched = AttributionStore(fetch_store("user/attributions"))
# Another store takes its place
one = AttributionStore(folder / "one", local.settings)
one.add(local[next(iter(local))])
one.compact()
push_store(one.path, "user/attributions")
replaced = open_store("user/attributions")
errors = []
for name in ("user/nothing", "user/plain"):
    try:
        open_store(name)
    except FileNotFoundError as error:
        errors.append(str(error))
table = load_dataset("user/attributions", split="train", cache_dir=str(folder / "datasets"))
print(json.dumps({
    "same": same, "trained": trained, "generated": generated.shape[1] - ids.shape[1], "url": url,
    "rows_equal": {key: dataclasses.asdict(local[key]) for key in local}
    == {key: dataclasses.asdict(fetched[key]) for key in fetched},
    "settings_equal": local.settings == fetched.settings, "local": len(local), "replaced": len(replaced),
    "card": card, "errors": errors, "table": table.num_rows, "columns": table.column_names,
}))
"""


@pytest.mark.slow
def test_adapter_and_store_are_pushed_and_loaded_back(tmp_path):
    pytest.importorskip("peft")
    with hub_stand_in() as hub:
        hub.repos["datasets/user/plain"] = {"data.jsonl": b"{}"}
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": "x",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
            "NO_PROXY": "127.0.0.1",
        }
        process = subprocess.run(
            [sys.executable, "-c", _PUSH_AND_LOAD, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert process.returncode == 0, process.stderr[-4000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["same"]
    assert result["trained"]
    assert result["generated"] == 4
    assert hub.unknown == []

    pushed = hub.repos["models/user/adapter"]
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= pushed.keys()
    card = pushed["README.md"].decode()
    assert "2602.00425" in card
    assert "user/traces" in card
    assert "### Segment selection" in card
    lines = result["card"].splitlines()
    assert lines.index("### Segment selection") < lines.index("### Framework versions") < lines.index("## Citations")
    assert card_cells(result["card"])["Gradient evaluations"] == "6 in total, 2.0 per attributed trace"
    assert "library_name: peft" in lines
    assert "Let me see" not in result["card"]
    assert "[None]" not in result["card"]

    assert result["rows_equal"]
    assert result["settings_equal"]
    assert result["local"] == 3
    assert result["url"].startswith(f"{hub.endpoint}/datasets/user/attributions/commit/")
    assert result["replaced"] == 1
    stored = hub.repos["datasets/user/attributions"]
    assert len([name for name in stored if name.endswith(".arrow")]) == 1
    assert "settings.json" in stored
    # What the Hub shows as a table, and `datasets` loads, are the rows and not the settings
    assert result["table"] == 1
    assert "sum_signed" in result["columns"]
    assert "Traces: 1." in stored["README.md"].decode()
    assert "'user/nothing'" in result["errors"][0]
    assert "not an attribution store" in result["errors"][1]
