"""The section that a model card of a selectively trained model has."""

import dataclasses

import pytest
from helpers import card_cells, store_settings

from trl_segment import AttributionStore, SegmentSelectiveSFTConfig
from trl_segment.store import StoredAttribution
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


def test_section_says_what_was_selected_and_at_what_cost(config, store):
    section = selection_section(
        config, SUMMARY, store, model_id="user/tuned", base_model="Qwen/Qwen2.5-1.5B", dataset_name="GAIR/LIMO"
    )
    table = card_cells(section)
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
    table = card_cells(selection_section(config, SUMMARY, store, keys=["key0", "key0", "key4", "absent"]))
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
    table = card_cells(section)
    assert "peft 0" in table["Versions"]
    assert table["Attribution model"].startswith("[Qwen/Qwen2.5-7B](https://huggingface.co/Qwen/Qwen2.5-7B), ")
    assert table["`reattribute_every_epochs`"] == "`2`"
    assert table["`segment_pattern`"] == r"`a\|b`"
    assert table["Base model"] == table["Dataset"] == "not on the Hub"


def test_a_store_made_beforehand_counts_and_not_what_its_reader_was_told(config, tmp_path):
    store = AttributionStore(tmp_path / "other", store_settings(scorer="perplexity", segmenter="paragraphs"))
    section = selection_section(dataclasses.replace(config, attributions="user/store"), SUMMARY, store)
    assert "by the scorer `perplexity`" in section
    assert card_cells(section)["`segmenter`"] == "`paragraphs`"
    assert card_cells(section)["Attribution model"].startswith("that of a store made beforehand, `qwen2`")


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
    table = card_cells(selection_section(config, SUMMARY, store, keys=["key0"]))
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
