"""What the scores of a store were made with: one list of facts that everybody asks."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..traces import SEGMENTERS, TraceConfig
from ..traces.columns import COLUMN_OPTIONS
from ..traces.statements import STATEMENTS


# Raised when the same inputs give other scores than before, or are written in another form. See docs/versions.md.
STORE_VERSION = 2

# `segmenter` of a store whose segments a function of the user's has cut
CUSTOM_SEGMENTER = "custom"

# Options of reading that are unset by default
_OPTIONAL_READING = ("reasoning_start", "reasoning_end", *COLUMN_OPTIONS)

# Fields that came after the first stores of this version, in groups as they came, and what a store without them means.
# A new field needs a line here, or no store that was made before it keeps its rows.
_LATER: tuple[dict[str, Any], ...] = (
    dict.fromkeys(("reasoning_start", "reasoning_end")),
    {"answer_statements": "visible"},
    dict.fromkeys(COLUMN_OPTIONS),
)

# What a person calls a field, where its name alone does not say
_WORDS = {
    "config": "config of the attribution model (hash)",
    "weights": "weights of the attribution model (hash)",
    "dtype": "precision of the attribution model's weights (`dtype`)",
    "autocast": "mixed precision of the attribution (`bf16`, `fp16`)",
    "adapter": "adapter of the attribution model (hash)",
    "tokenizer": "tokenizer of the attribution model (hash)",
    "chat_template": "chat template (hash)",
    "custom_segmenter": "custom segmenter",
    "scorer": "attribution_scorer",
}


@dataclass(frozen=True)
class StoreSettings:
    """
    Everything that changes the scores of a trace. Two runs may share a store if nothing of it differs.

    Made from a run by [`~trl_segment.attribution.attribution_settings`].

    Args:
        model_type (`str`):
            Architecture of the attribution model.
        config (`str`):
            Hash of what its config says about its computation.
        weights (`str` or `None`):
            Hash of its weights; `None` where they are not known, as in a dry run, and then they differ from none.
        dtype (`str` or `None`):
            Precision of its weights; `None` where it is not known.
        autocast (`str`):
            Mixed precision that it ran in: `"no"`, `"bf16"` or `"fp16"`.
        adapter (`str` or `None`):
            Hash of the adapter that was on, `"off"` without one; `None` where it is not known.
        tokenizer (`str`):
            Hash of its tokenizer.
        chat_template (`str`):
            Hash of the chat template.
        segmenter (`str`):
            Name of the segmenter, `"custom"` for a function of the user's.
        segment_pattern (`str` or `None`):
            See [`~trl_segment.TraceConfig`].
        answer_column (`str`):
            See [`~trl_segment.TraceConfig`].
        question_template (`str`):
            See [`~trl_segment.TraceConfig`].
        answer_template (`str`):
            See [`~trl_segment.AttributionConfig`].
        scorer (`str`):
            What scored the segments.
        options (`dict[str, Any]`, *optional*):
            Options of the scorer, without those that do not concern it.
        custom_segmenter (`str`, *optional*):
            Name of the user's function.
        segmenter_source (`str`, *optional*):
            Hash of the module that it stands in; `None` where that could not be read.
        reasoning_start (`str`, *optional*):
            See [`~trl_segment.TraceConfig`].
        reasoning_end (`str`, *optional*):
            See [`~trl_segment.TraceConfig`].
        question_column (`str`, *optional*):
            See [`~trl_segment.TraceConfig`].
        solution_column (`str`, *optional*):
            See [`~trl_segment.TraceConfig`].
        reasoning_column (`str`, *optional*):
            See [`~trl_segment.TraceConfig`].
        response_column (`str`, *optional*):
            See [`~trl_segment.TraceConfig`].
        answer_statements (`str`, *optional*, defaults to `"visible"`):
            See [`~trl_segment.AttributionConfig`].
        version (`int`, *optional*):
            Version of the scores and of the form that they are stored in.
    """

    model_type: str
    config: str
    weights: str | None
    dtype: str | None
    autocast: str
    adapter: str | None
    tokenizer: str
    chat_template: str
    segmenter: str
    segment_pattern: str | None
    answer_column: str
    question_template: str
    answer_template: str
    scorer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    custom_segmenter: str | None = None
    segmenter_source: str | None = None
    reasoning_start: str | None = None
    reasoning_end: str | None = None
    question_column: str | None = None
    solution_column: str | None = None
    reasoning_column: str | None = None
    response_column: str | None = None
    answer_statements: str = "visible"
    version: int = STORE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible, for `settings.json`."""
        return asdict(self)

    def fingerprints(self) -> list[str]:
        """
        Hashes that a file of a store with these settings may bear: first the one that is written, in which fields that
        came later count only where they are set, then those that earlier code wrote, which knew fewer of them.

        Returns:
            `list[str]`: 16 hexadecimal digits each.
        """
        values = self.to_dict()
        unset = {name for later in _LATER for name, default in later.items() if values[name] == default}
        found = [_hash_of({name: value for name, value in values.items() if name not in unset})]
        for known in range(len(_LATER) + 1):
            unknown = {name for later in _LATER[known:] for name in later}
            if unknown <= unset:
                found.append(_hash_of({name: value for name, value in values.items() if name not in unknown}))
        return list(dict.fromkeys(found))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StoreSettings":
        """
        Read what [`~StoreSettings.to_dict`] wrote.

        Args:
            values (`Mapping[str, Any]`):
                Content of a `settings.json`, which may come from anywhere.

        Returns:
            [`StoreSettings`]: The settings.

        Raises:
            `ValueError`: If they are of another version, or not settings at all. The message goes on from the name of
                their file.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"holds a {type(values).__name__} in place of settings")
        if values.get("version") != STORE_VERSION:
            raise ValueError(
                f"is of version {values.get('version', values.get('scores_version'))!r} of the stored scores, and "
                f"this trl-segment reads version {STORE_VERSION}. Make the attributions again in another folder, or "
                "use the trl-segment that made them"
            )
        # Stores that are older than these options were made without them
        for later in _LATER:
            values = {**later, **values}
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            missing, unknown = sorted(names - values.keys()), sorted(map(str, values.keys() - names))
            raise ValueError(
                f"lacks {', '.join(missing) or 'nothing'} and has the unknown {', '.join(unknown) or 'nothing'}"
            )
        for name, value in values.items():
            wanted = dict if name == "options" else int if name == "version" else str
            optional = name in (
                "weights",
                "dtype",
                "adapter",
                "segment_pattern",
                "custom_segmenter",
                "segmenter_source",
                *_OPTIONAL_READING,
            )
            if not (isinstance(value, wanted) or (optional and value is None)):
                raise ValueError(f"has a {type(value).__name__} as {name}, where a {wanted.__name__} belongs")
        # Above all no name of a function, which would be loaded and called with the text of the reader's rows
        if values["segmenter"] not in (*SEGMENTERS, CUSTOM_SEGMENTER):
            raise ValueError(f"names the segmenter {values['segmenter']!r}, which there is not")
        if values["answer_statements"] not in STATEMENTS:
            raise ValueError(f"has {values['answer_statements']!r} as answer_statements, which there is not")
        return cls(**values)

    def trace_config(self, segmenter: str | None = None) -> TraceConfig:
        """
        How rows are read so that their traces are those of the store.

        Args:
            segmenter (`str`, *optional*):
                The user's function as `"FILE.py:FUNCTION"`, for a store whose segments it has cut. Never taken from
                the store: it may come from anywhere.

        Returns:
            [`~trl_segment.TraceConfig`]: Its config.

        Raises:
            `ValueError`: If a custom segmenter is needed and none is given, or the other way round.
        """
        if self.segmenter == CUSTOM_SEGMENTER and segmenter is None:
            raise ValueError(
                f"The segments of this store were cut by a function, {self.custom_segmenter!r}, which no store can "
                "hold. Pass the function to read rows with: `--segmenter FILE.py:FUNCTION`."
            )
        if self.segmenter != CUSTOM_SEGMENTER and segmenter not in (None, self.segmenter):
            raise ValueError(
                f"The segments of this store were cut by {self.segmenter!r}, so its traces cannot be found with "
                f"`--segmenter {segmenter}`. Leave the option out."
            )
        return TraceConfig(
            segmenter=segmenter or self.segmenter,
            segment_pattern=self.segment_pattern,
            answer_column=self.answer_column,
            question_template=self.question_template,
            **{name: getattr(self, name) for name in _OPTIONAL_READING},
        )

    def differences(self, other: "StoreSettings", ours: str = "stored", theirs: str = "now") -> list[str]:
        """
        Where the settings of two runs differ.

        Args:
            other ([`StoreSettings`]):
                The other run's. What one of the two does not know (`weights`, `dtype`, `adapter`) does not differ.
            ours (`str`, *optional*, defaults to `"stored"`):
                What to call these settings.
            theirs (`str`, *optional*, defaults to `"now"`):
                What to call the other ones.

        Returns:
            `list[str]`: One sentence for each difference, in a person's words; empty if there is none.
        """
        found = []
        for name, one, two in self._pairs(other):
            unknown = name in ("weights", "dtype", "adapter") and None in (one, two)
            if one != two and not unknown:
                found.append(f"{_WORDS.get(name, name)}: {ours} {one!r}, {theirs} {two!r}")
        return found

    def _pairs(self, other: "StoreSettings") -> Iterator[tuple[str, Any, Any]]:
        for entry in fields(self):
            if entry.name == "options":
                if self.scorer == other.scorer:
                    for name in sorted(self.options.keys() | other.options.keys()):
                        yield f"attribution_{name}", self.options.get(name), other.options.get(name)
            else:
                # Another source that cuts in another way gives other keys, so that its rows are others anyway
                if entry.name != "segmenter_source":
                    yield entry.name, getattr(self, entry.name), getattr(other, entry.name)

    def describe(self) -> dict[str, Any]:
        """What a page or a card shows of the settings: no entry that is empty, options beside the rest."""
        values = {**self.to_dict(), **self.options}
        del values["options"]
        return {name: value for name, value in values.items() if value not in (None, {}, "")}


def _hash_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
