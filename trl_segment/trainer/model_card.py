"""What a model card says of a selectively trained model: how segments were chosen, what was kept, how to load it."""

import os
from array import array
from collections.abc import Iterable
from dataclasses import fields
from importlib.metadata import version

import numpy as np
from huggingface_hub import ModelCard

from .. import __version__
from ..selection import ReliabilityCount, SelectionConfig
from ..store import AttributionStore, settings_of
from ..traces.columns import COLUMN_OPTIONS
from .config import SegmentSelectiveSFTConfig
from .segment_table import SelectionSummary


# TRL's template has this heading; what was trained comes before what it was trained with
_NEXT_HEADING = "### Framework versions"
_HEADING = "### Segment selection"

_CHOICES = {
    "attribution": "Those that matter to the right answer, by the scorer `{scorer}`, were kept.",
    "threshold": "Those with a strength of at least `min_strength`, by the scorer `{scorer}`, were kept.",
    "random": "As many as attribution would have kept were drawn at random.",
    "all": "All of them were kept.",
}
_TREATMENTS = {
    "mask": "Tokens of dropped segments were seen but left out of the loss.",
    "weight": "Tokens of dropped segments had the loss weight {dropped_weight}, those of kept ones {kept_weight}.",
    "prune": "Dropped segments were taken out of the traces.",
}

_LOADING = """\
```python
from {library} import {cls}
from transformers import AutoTokenizer

model = {cls}.from_pretrained("{model_id}", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("{model_id}")
messages = [{{"role": "user", "content": "What is 17 * 23?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs.to(model.device), max_new_tokens=4096)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))
```"""


def selection_section(
    config: SegmentSelectiveSFTConfig,
    summary: SelectionSummary | None = None,
    store: AttributionStore | None = None,
    keys: Iterable[str] | None = None,
    is_adapter: bool = False,
    model_id: str | None = None,
    base_model: str | None = None,
    dataset_name: str | None = None,
) -> str:
    """
    Section of a model card about the selection of segments. No text of a trace enters it, and no local path.

    Args:
        config ([`SegmentSelectiveSFTConfig`]):
            What the model was trained with.
        summary ([`SelectionSummary`], *optional*):
            What was kept. Without it (a model that has not been trained yet) the section does not say so.
        store ([`~trl_segment.AttributionStore`], *optional*):
            The attributions that decided.
        keys (`Iterable[str]`, *optional*):
            Keys of the training set's traces, where the store may hold others. Defaults to all.
        is_adapter (`bool`, *optional*, defaults to `False`):
            Whether what was saved is a PEFT adapter.
        model_id (`str`, *optional*):
            Name of the model on the Hub.
        base_model (`str`, *optional*):
            Name of the model that was trained.
        dataset_name (`str`, *optional*):
            Name of the dataset.

    Returns:
        `str`: Markdown, from its heading to its last line.
    """
    # What a store was made with counts, not what a run that reads it was told
    settings = None if store is None else settings_of(store)
    rows = [("Base model", _link(base_model, "")), ("Dataset", _link(dataset_name, "datasets/"))]
    if summary is not None:
        skipped = sum(map(len, summary.skipped.values()))
        rows += [
            ("Traces", f"{summary.traces:,}, of which {skipped:,} could not be attributed and were trained in full"),
            ("Segments kept", _share(summary.kept_segments, summary.segments)),
            ("Reasoning tokens kept", _share(summary.kept_tokens, summary.tokens)),
            *_within_max_length(summary),
        ]
    rows += [(_code(field.name), _code(getattr(config, field.name))) for field in fields(SelectionConfig)]
    for name in (
        "segmenter",
        "segment_pattern",
        *COLUMN_OPTIONS,
        "reasoning_start",
        "reasoning_end",
        "completion_rendering",
    ):
        value = getattr(settings, name, None) or getattr(config, name)
        rows += [] if value is None else [(_code(name), _code(value))]
    if config.reattribute_every_epochs is not None:
        rows.append(("`reattribute_every_epochs`", _code(config.reattribute_every_epochs)))
    if store is not None:
        rows += _attribution_rows(config, store, keys)
    rows.append(("Versions", _versions(is_adapter)))

    choice = _CHOICES[config.selection].format(scorer=getattr(settings, "scorer", config.attribution_scorer))
    treatment = _TREATMENTS[config.dropped_segments].format(
        dropped_weight=config.dropped_weight, kept_weight=config.kept_weight
    )
    loading = _LOADING.format(
        library="peft" if is_adapter else "transformers",
        cls="AutoPeftModelForCausalLM" if is_adapter else "AutoModelForCausalLM",
        # Of a local folder only its owner knows the place
        model_id=model_id or "path/to/this/model",
    )
    what = "a PEFT adapter" if is_adapter else "a full model"
    return "\n".join(
        [
            _HEADING,
            "",
            f"The reasoning of every training example was cut into segments. {choice} {treatment} What stands outside "
            "the reasoning (tags, response) was trained as in plain SFT.",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"What is stored is {what}. To load it:",
            "",
            loading,
        ]
    )


def card_metadata(is_adapter: bool, base_model: str | None = None) -> dict[str, str]:
    """
    Metadata that TRL's card lacks or has wrong for what was saved.

    Args:
        is_adapter (`bool`):
            Whether it is a PEFT adapter.
        base_model (`str`, *optional*):
            Name of the model that was trained.

    Returns:
        `dict[str, str]`: Entries of the card's YAML block.
    """
    metadata = {"library_name": "peft" if is_adapter else "transformers", "pipeline_tag": "text-generation"}
    if base_model is not None and not os.path.isdir(base_model):
        metadata |= {"base_model": base_model, "base_model_relation": "adapter" if is_adapter else "finetune"}
    return metadata


def complete_card(card: str, section: str, metadata: dict[str, str] | None = None) -> str:
    """
    Put a section and metadata into the text of a card.

    Args:
        card (`str`):
            Text of a `README.md`, usually as TRL's `create_model_card` writes it.
        section (`str`):
            See [`selection_section`]. Stands before "### Framework versions", or at the end of a card without. One
            that is in the card already is replaced.
        metadata (`dict[str, str]`, *optional*):
            See [`card_metadata`].

    Returns:
        `str`: Text of the completed card.
    """
    # TRL's words for a base model without a name
    lines = card.replace("[None](https://huggingface.co/None)", "a model that is not on the Hub").splitlines()
    if _HEADING in lines:
        start = lines.index(_HEADING)
        # Up to the next heading; a comment in a code block begins with `# ` at most
        end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("##")), len(lines))
        del lines[start:end]
    position = lines.index(_NEXT_HEADING) if _NEXT_HEADING in lines else len(lines)
    before, after = "\n".join(lines[:position]).rstrip(), "\n".join(lines[position:]).rstrip()
    text = "\n\n".join(part for part in (before, section, after) if part) + "\n"
    if not metadata:
        return text
    completed = ModelCard(text)
    for key, value in metadata.items():
        completed.data[key] = value
    return str(completed)


def _attribution_rows(config, store, keys):
    """What the store says: who attributed, how, at what cost and with what error."""
    settings = settings_of(store)
    model = "the base model" if config.attribution_model is None else _link(config.attribution_model, "")
    if config.attributions is not None:
        model = "that of a store made beforehand"
    parts = [model, f"`{settings.model_type}`"]
    parts += [f"{name} {_code(getattr(settings, name))}" for name in ("weights", "dtype") if getattr(settings, name)]
    parts += ["with the adapter on"] if settings.adapter not in (None, "off") else []
    rows = [("Attribution model", ", ".join(parts)), ("Attribution: scorer", _code(settings.scorer))]
    for name in ("rule", "path", "baseline", "evaluations"):
        if name in settings.options:
            label = "evaluations per trace, at most" if name == "evaluations" else name
            rows.append((f"Attribution: {label}", _code(settings.options[name])))

    evaluations, defects, rises = array("q"), array("d"), array("d")
    reliability = ReliabilityCount()
    for key in dict.fromkeys(store if keys is None else keys):
        row = store.get(key)
        if row is None or row.problem is not None:
            continue
        evaluations.append(row.evaluations)
        if row.f_input is not None and row.f_baseline is not None:
            rises.append(abs(row.f_input - row.f_baseline))
        reliability.add(row.name, row.reliability, row.gain)
        # Scorers other than Integrated Gradients have nothing to be complete
        if row.defect is not None and np.isfinite(row.defect):
            defects.append(row.defect)
    if evaluations:
        total, count = sum(evaluations), len(evaluations)
        rows.append(("Gradient evaluations", f"{total:,} in total, {total / count:,.1f} per attributed trace"))
    if reliability.traces:
        rows.append(("Attributions settled", reliability.describe()))
    if reliability.unread:
        unread = len(reliability.unread)
        rows.append(("Reasoning does not raise the answer", f"{_share(unread, unread + reliability.read)} traces"))
    if defects:
        defects, rise = np.array(defects), np.median(rises)
        rows.append(
            (
                "Completeness defect",
                f"median {np.median(np.abs(defects)):.2g}, largest {np.abs(defects).max():.2g} nats, at a median of "
                f"{rise:.3g} nats between input and baseline",
            )
        )
    return rows


def _versions(is_adapter):
    packages = ("trl", "transformers", "torch", "datasets", *(["peft"] if is_adapter else []))
    return ", ".join([f"trl-segment {__version__}", *(f"{name} {version(name)}" for name in packages)])


def _within_max_length(summary):
    if not summary.reached_tokens:
        return []
    return [("Reasoning tokens kept within `max_length`", _share(summary.trained_tokens, summary.reached_tokens))]


def _share(part, whole):
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.1%})"


def _code(value):
    r"""As code in a table cell, where `|` would end the cell."""
    return f"`{str(value).replace('|', chr(92) + '|')}`"


def _link(name, prefix):
    if not name or os.path.exists(name) or name.count("/") > 1:
        return "not on the Hub"
    return f"[{name}](https://huggingface.co/{prefix}{name})"
