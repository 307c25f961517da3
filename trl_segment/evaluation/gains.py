"""Gains of segments in a model's confidence in the right answer, computed once and kept in a file."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..traces import AttributedSequence, Trace, attributed_sequence


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .outputs import OutputFile


# Scale of the confidence, with the unit of its gains
CONFIDENCES = {"log_probability": "nats", "probability": "probability"}


class KeptLogProbs:
    """
    Log-probabilities of the answer that a model has given, in a file: what the file knows costs nothing.

    Args:
        path (`str` or `os.PathLike`):
            JSONL file, which is continued.
        load (`Callable`):
            Returns model and tokenizer. Called when the first trace is asked for.
        confidence (`str`, *optional*, defaults to `"log_probability"`):
            Scale of the confidence: `"log_probability"` or `"probability"`.

    Attributes:
        key (`tuple[str, ...]`):
            Which fields tell records apart.
    """

    key: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        path: str | os.PathLike,
        load: "Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]",
        confidence: str = "log_probability",
    ):
        self.path = Path(path)
        self.confidence = confidence
        self._load = load
        self._engine = self._file = None

    def close(self) -> None:
        """Let other runs write to the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, OutputFile]":
        if self._engine is None:
            from ..models.inspection import adapter_fingerprint, config_fingerprint, weights_fingerprint
            from ..models.precision import precision_of
            from .outputs import OutputFile

            model, _ = self._engine = self._load()
            settings = {
                "weights": weights_fingerprint(model),
                "adapter": adapter_fingerprint(model),
                "config": config_fingerprint(model.config),
                "dtype": precision_of(model),
            }
            self._file = OutputFile(self.path, settings, self.key)
        return *self._engine, self._file

    def _on_scale(self, log_probs: np.ndarray) -> np.ndarray:
        return log_probs if self.confidence == "log_probability" else np.exp(log_probs)


class SegmentGains(KeptLogProbs):
    """Gains of segments, see [`KeptLogProbs`]."""

    key = ("key", "sequence")

    def __call__(self, trace: Trace, answer_template: str, answer_statements: str = "visible") -> np.ndarray | str:
        """
        Gains of the segments of a trace.

        Args:
            trace ([`~trl_segment.Trace`]):
                A trace that can be attributed.
            answer_template (`str`):
                Text behind the reasoning, see [`~trl_segment.AttributionConfig`].
            answer_statements (`str`, *optional*, defaults to `"visible"`):
                What becomes of statements of the answer in the reasoning, see the same.

        Returns:
            `np.ndarray` or `str`: Confidence after each segment minus that before it, shape (segments,), or why there
            is none.
        """
        from ..models.inspection import neutral_token
        from .confidence import answer_log_probs

        model, tokenizer, file = self._open()
        sequence = attributed_sequence(
            trace, tokenizer, answer_template, answer_statements, neutral_token(model.config)
        )
        if sequence.problem is not None:
            return sequence.problem
        known = (trace.key, sequence_digest(sequence))
        if known not in file.records:
            values = answer_log_probs(model, sequence.input_ids, sequence.target, sequence.segments)
            file.append({**dict(zip(self.key, known, strict=True)), "log_probs": values.tolist()})
        values = np.array(file.records[known]["log_probs"])
        gains = np.diff(self._on_scale(values))
        return gains if np.isfinite(gains).all() else "the log-probabilities of the answer are not finite"


def sequence_digest(sequence: AttributedSequence) -> str:
    """
    Hash of all that a model reads of a trace, whatever template or tokenizer it has come through.

    Args:
        sequence ([`~trl_segment.traces.AttributedSequence`]):
            The attributed sequence.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    read = [sequence.input_ids.tolist(), sequence.target, sequence.segments]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()[:32]
