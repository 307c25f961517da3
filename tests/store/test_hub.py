"""Model card, and pushing to and loading from the Hub, against a stand-in on this machine."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY, store_settings
from hub_stand_in import hub_stand_in

from trl_segment import AttributionStore, SegmentSelectiveSFTConfig
from trl_segment.store import StoredAttribution, open_store, push_store
from trl_segment.trainer import SelectionSummary
from trl_segment.trainer.model_card import card_metadata, complete_card, selection_section


SETTINGS = store_settings(dtype="bfloat16", rule="simpson", baseline="pad", evaluations=64)
SECRET = "the answer is secret"


@pytest.fixture
def store(tmp_path):
    store = AttributionStore(tmp_path / "store", SETTINGS)
    for index in range(4):
        row = StoredAttribution(
            f"key{index}",
            f"{SECRET} {index}",
            num_tokens=[3, 4],
            sum_abs=[1.0, 2.0],
            sum_signed=[0.5, -1.0],
            sequence_tokens=9,
            f_input=-1.0,
            f_baseline=-5.0 - index,
            completeness_gap=0.1,
            defect=0.1 * (index + 1),
            evaluations=10 + index,
            stopped_by="tolerance",
        )
        store.add(row)
    store.add(StoredAttribution("key4", "skipped", f"no token of the answer {SECRET!r}"))
    store.compact()
    return store


@pytest.fixture
def config(tmp_path):
    return SegmentSelectiveSFTConfig(str(tmp_path / "out"), bf16=False, use_cpu=True, tau=0.55, keep_last=3)


SUMMARY = SelectionSummary(5, 20, 8, 1000, 450, {f"no token of the answer {SECRET!r}": [SECRET]})


def cells(section):
    """The table of a section as a dictionary."""
    rows = [line.strip("|").split("|", 1) for line in section.splitlines() if line.startswith("| ")]
    return {name.strip(): value.strip() for name, value in rows}


def test_section_says_what_was_selected_and_at_what_cost(config, store):
    section = selection_section(
        config, SUMMARY, store, model_id="user/tuned", base_model="Qwen/Qwen2.5-1.5B", dataset_name="GAIR/LIMO"
    )
    table = cells(section)
    assert table["Base model"] == "[Qwen/Qwen2.5-1.5B](https://huggingface.co/Qwen/Qwen2.5-1.5B)"
    assert table["Dataset"] == "[GAIR/LIMO](https://huggingface.co/datasets/GAIR/LIMO)"
    assert table["Traces"].startswith("5, of which 1 could not be attributed")
    assert table["Segments kept"] == "8 of 20 (40.0%)"
    assert table["Reasoning tokens kept"] == "450 of 1,000 (45.0%)"
    assert table["`tau`"] == "`0.55`"
    assert table["`keep_last`"] == "`3`"
    assert {"`beta`", "`keep_first`", "`transition`", "`segmenter`"} <= table.keys()
    assert table["Attribution model"] == "the base model, `qwen2`, weights `0123456789abcdef`, dtype `bfloat16`"
    assert table["Attribution: rule"] == "`simpson`"
    assert table["Gradient evaluations"] == "46 in total, 11.5 per attributed trace"
    assert table["Completeness defect"].startswith("median 0.25, largest 0.4 nats, at a median of 5.5 nats")
    assert all(name in table["Versions"] for name in ("trl-segment 0", "trl 1", "transformers 5", "torch", "datasets"))
    assert "peft" not in table["Versions"]
    assert 'AutoModelForCausalLM.from_pretrained("user/tuned"' in section
    assert SECRET not in section


def test_section_counts_only_the_traces_of_the_training_set(config, store):
    table = cells(selection_section(config, SUMMARY, store, keys=["key0", "key0", "key4", "absent"]))
    assert table["Gradient evaluations"] == "10 in total, 10.0 per attributed trace"


def test_section_of_an_adapter_and_of_other_settings(config, store):
    config = dataclasses.replace(
        config,
        dropped_segments="weight",
        dropped_weight=0.25,
        segmenter="regex",
        segment_pattern="a|b",
        attribution_model="Qwen/Qwen2.5-7B",
        reattribute_every_epochs=2,
    )
    section = selection_section(config, SUMMARY, store, is_adapter=True)
    assert "loss weight 0.25" in section
    assert "at random" in selection_section(dataclasses.replace(config, selection="random"))
    assert 'AutoPeftModelForCausalLM.from_pretrained("path/to/this/model"' in section
    table = cells(section)
    assert "peft 0" in table["Versions"]
    assert table["Attribution model"].startswith("[Qwen/Qwen2.5-7B](https://huggingface.co/Qwen/Qwen2.5-7B), ")
    assert table["`reattribute_every_epochs`"] == "`2`"
    assert table["`segment_pattern`"] == r"`a\|b`"
    assert table["Base model"] == table["Dataset"] == "not on the Hub"


def test_a_store_made_beforehand_counts_and_not_what_its_reader_was_told(config, tmp_path):
    store = AttributionStore(tmp_path / "other", store_settings(scorer="perplexity", segmenter="paragraphs"))
    section = selection_section(dataclasses.replace(config, attributions="user/store"), SUMMARY, store)
    assert "by the scorer `perplexity`" in section
    assert cells(section)["`segmenter`"] == "`paragraphs`"
    assert cells(section)["Attribution model"].startswith("that of a store made beforehand, `qwen2`")


def test_no_local_path_enters_the_section(config, store, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for kwargs in ({"attribution_model": str(folder)}, {"attributions": str(store.path)}):
        section = selection_section(
            dataclasses.replace(config, **kwargs), SUMMARY, store, base_model=str(folder), dataset_name=str(folder)
        )
        assert str(tmp_path) not in section
    assert "base_model" not in card_metadata(True, str(folder))


def test_section_without_a_run_and_without_a_defect(config, store):
    assert "Segments kept" not in selection_section(config)
    row = dataclasses.replace(store["key0"], defect=float("nan"), evaluations=0)
    store.add(row)
    table = cells(selection_section(config, SUMMARY, store, keys=["key0"]))
    assert "Completeness defect" not in table
    assert table["Gradient evaluations"].startswith("0 in total")


CARD = """\
---
library_name: transformers
tags:
- sft
---

# Card

### Framework versions

- TRL: 1

## Citations
"""


def test_section_and_metadata_go_into_a_card_once(config, store):
    section = selection_section(config, SUMMARY, store, is_adapter=True)
    card = complete_card(CARD, section, card_metadata(True, "user/base"))
    lines = card.splitlines()
    assert lines.index("# Card") < lines.index("### Segment selection") < lines.index("### Framework versions")
    assert "## Citations" in lines
    head = card.split("---")[1]
    assert "library_name: peft" in head
    assert "base_model: user/base" in head
    assert "base_model_relation: adapter" in head
    assert "- sft" in head
    # A later push replaces the section
    other = selection_section(dataclasses.replace(config, tau=0.9), SUMMARY, store, is_adapter=True)
    assert complete_card(complete_card(card, other), section, card_metadata(True, "user/base")) == card
    assert complete_card("# Bare", section) == f"# Bare\n\n{section}\n"


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
    assert cells(result["card"])["Gradient evaluations"] == "6 in total, 2.0 per attributed trace"
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
