"""One trace's row: the few numbers per segment that every selection rule needs."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..selection import Reliability, SegmentScores


SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("problem", pa.string()),
        ("num_tokens", pa.list_(pa.int32())),
        ("sum_abs", pa.list_(pa.float64())),
        ("sum_signed", pa.list_(pa.float64())),
        ("sequence_tokens", pa.int32()),
        ("f_input", pa.float64()),
        ("f_baseline", pa.float64()),
        ("completeness_gap", pa.float64()),
        ("defect", pa.float64()),
        ("evaluations", pa.int32()),
        ("stopped_by", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("l1", pa.float64()),
        ("variation", pa.float64()),
        ("halves_correlation", pa.float64()),
        ("halves_agreement", pa.float64()),
    ]
)


def find_impossible(rows: pa.RecordBatch) -> dict[int, str]:
    """
    Rows that no scorer makes: they may come from anywhere, and a NaN or a length too few would train without a word.

    Args:
        rows (`pyarrow.RecordBatch`):
            Of [`SCHEMA`].

    Returns:
        `dict[int, str]`: What is wrong with them, by row number.
    """
    columns = {name: rows.column(name) for name in SCHEMA.names}
    lists = ("num_tokens", "sum_abs", "sum_signed", "scores")
    given = {name: columns[name].is_valid().to_numpy(zero_copy_only=False) for name in lists}
    lengths = {name: pc.list_value_length(columns[name]).fill_null(0).to_numpy(zero_copy_only=False) for name in lists}
    values = {name: columns[name].flatten().to_numpy(zero_copy_only=False).astype(float) for name in lists}
    row_of = {name: np.repeat(np.arange(len(rows)), lengths[name]) for name in lists}
    scored = columns["problem"].is_null().to_numpy(zero_copy_only=False)

    def rows_with(name: str, wrong: np.ndarray) -> np.ndarray:
        found = np.zeros(len(rows), dtype=bool)
        found[row_of[name][wrong]] = True
        return found

    sums, whole = given["sum_abs"] & given["sum_signed"], given["scores"]
    unequal = given["sum_abs"] != given["sum_signed"]
    for name in lists[1:]:
        unequal |= given[name] & (lengths[name] != lengths["num_tokens"])
    infinite, negative = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    for name in ("f_input", "f_baseline"):
        infinite |= ~pc.is_finite(columns[name]).fill_null(True).to_numpy(zero_copy_only=False)
    for name in lists:
        infinite |= rows_with(name, ~np.isfinite(values[name]))
        if name != "sum_signed":
            negative |= rows_with(name, values[name] < 0)
    unnamed = pc.or_(columns["key"].is_null(), columns["name"].is_null()).to_numpy(zero_copy_only=False)
    problems = {
        "it has no key or no name": unnamed,
        "it has no segment": scored & (lengths["num_tokens"] == 0),
        "it has not one number for each segment": scored & (unequal | (sums == whole)),
        "it has numbers that are NaN or infinite": scored & infinite,
        "it has negative strengths or lengths": scored & negative,
    }
    return {int(row): said for said, wrong in reversed(problems.items()) for row in np.flatnonzero(wrong)}


def check_segments(stored: int, segments: int, name: str) -> None:
    """
    That a store has as many numbers as a trace has segments.

    Args:
        stored (`int`):
            Number of segments that it has scores of.
        segments (`int`):
            Number of segments of the trace.
        name (`str`):
            What the trace is called.

    Raises:
        `ValueError`: If there are more or fewer.
    """
    if stored != segments:
        raise ValueError(
            f"{name}: the store has the scores of {stored} segments, but the trace has {segments}. No run of this "
            "package makes such a row. Make the attributions again in another folder."
        )


@dataclass
class StoredAttribution:
    """
    One trace's row.

    Args:
        key (`str`):
            [`~trl_segment.traces.Trace`]'s key.
        name (`str`):
            What the dataset calls it: its `id` column or its row number.
        problem (`str`, *optional*):
            Why it was not attributed. Such a trace is trained in full, and the numbers below are empty.
        num_tokens (`list[int]`):
            Tokens per segment, with the attribution model's tokenizer.
        sum_abs (`list[float]`, *optional*):
            Sum of absolute token attributions per segment, in nats.
        sum_signed (`list[float]`, *optional*):
            Sum of signed token attributions per segment, in nats.
        sequence_tokens (`int`):
            Tokens of the attributed sequence.
        f_input (`float`):
            Log-probability of the answer, in nats.
        f_baseline (`float`, *optional*):
            The same at the baseline; without the reasoning, from scorers that have none.
        completeness_gap (`float`, *optional*):
            Sum of all token attributions minus (`f_input - f_baseline`), from scorers for which both are the same.
        defect (`float`, *optional*):
            Quadrature error in nats, as far as completeness shows it.
        evaluations (`int`):
            Gradient evaluations spent.
        stopped_by (`str`):
            Why the rule spent no more.
        scores (`list[float]`, *optional*):
            Score of each segment as a whole, in the scorer's unit, from scorers that have no token attributions.
        l1 (`float`, *optional*):
            With the three below how far the attributions can be trusted, see
            [`~trl_segment.selection.Reliability`], from scorers that integrate.
        variation (`float`, *optional*):
            See there.
        halves_correlation (`float`, *optional*):
            See there.
        halves_agreement (`float`, *optional*):
            See there.
    """

    key: str
    name: str
    problem: str | None = None
    num_tokens: list[int] = field(default_factory=list)
    sum_abs: list[float] | None = None
    sum_signed: list[float] | None = None
    sequence_tokens: int = 0
    f_input: float | None = None
    f_baseline: float | None = None
    completeness_gap: float | None = None
    defect: float | None = None
    evaluations: int = 0
    stopped_by: str | None = None
    scores: list[float] | None = None
    l1: float | None = None
    variation: float | None = None
    halves_correlation: float | None = None
    halves_agreement: float | None = None

    @property
    def segment_scores(self) -> SegmentScores:
        """What a selection needs to know of the segments."""
        sums = [None if values is None else np.array(values) for values in (self.sum_abs, self.sum_signed)]
        scores = None if self.scores is None else np.array(self.scores)
        return SegmentScores(np.array(self.num_tokens), sums[0], sums[1], scores, self.gain)

    @property
    def gain(self) -> float | None:
        """By how much the reasoning raises the answer's log-probability, in nats. On the path of all tokens this is
        what they raise it by together."""
        return None if self.f_input is None or self.f_baseline is None else self.f_input - self.f_baseline

    @property
    def reliability(self) -> Reliability | None:
        """How far the scores can be trusted; `None` from scorers that integrate nothing."""
        if self.l1 is None or self.completeness_gap is None or self.f_input is None or self.f_baseline is None:
            return None
        rise = abs(self.f_input - self.f_baseline)
        gap = abs(self.completeness_gap)
        return Reliability(
            gap=gap / rise if rise > 0 else 0.0 if gap == 0 else float("inf"),
            l1=self.l1,
            variation=float("nan") if self.variation is None else self.variation,
            halves_correlation=float("nan") if self.halves_correlation is None else self.halves_correlation,
            halves_agreement=float("nan") if self.halves_agreement is None else self.halves_agreement,
        )
