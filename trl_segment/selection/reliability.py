"""How far stored scores can be trusted: the diagnostics of an integral, and the bounds that they are read by."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


# A settled integral has halves that agree, token by token and in what they keep, a sum that is nearly complete, and
# attributions that do not dwarf the change of F. Noise can meet one of these by chance, hardly all of them at once.
# Chosen on two traces of Qwen2.5-Coder-1.5B and three each of SmolLM2-135M and Gemma-3-270M, and judged on others: see
# docs/real_models.md.
RELIABLE_HALVES = 0.9
AGREEING_HALVES = 0.5
COMPLETE_GAP = 0.2
MOST_L1 = 4.0

# From here on an attribution is called unreliable, settled or not
_WARN_GAP, _WARN_L1, _WARN_HALVES = 0.35, 3.0, 0.8


@dataclass(frozen=True)
class Reliability:
    """
    How far an integral can be trusted. `gap` and `l1` are of the plain sum over the nodes, in which no panel is
    bounded; the two halves are compared as the rule would integrate them.

    Args:
        gap (`float`):
            `|sum_t a_t - (F(1) - F(0))|` as a share of `|F(1) - F(0)|`: what completeness says is missing.
        l1 (`float`):
            `sum_t |a_t|` as a multiple of `|F(1) - F(0)|`. Large where attributions cancel, or are noise.
        variation (`float`):
            `sum |dF|` from node to node as a multiple of `|F(1) - F(0)|`: 1 for a monotone path.
        halves_correlation (`float`):
            Correlation `r`, about zero, of the token attributions from every other node with those from the rest,
            corrected for the half number of nodes: `2 r / (1 + r)`. In [-1, 1].
        halves_agreement (`float`):
            Jaccard index of the segments that the two halves keep by strength alone. NaN without segments.
    """

    gap: float
    l1: float
    variation: float
    halves_correlation: float
    halves_agreement: float

    @property
    def settled(self) -> bool:
        """Whether the halves agree and nothing contradicts them."""
        return (
            self.halves_correlation >= RELIABLE_HALVES
            # NaN, without segments, does not stand in the way
            and not self.halves_agreement < AGREEING_HALVES
            and self.gap <= COMPLETE_GAP
            and self.l1 <= MOST_L1
        )

    @property
    def warnings(self) -> list[str]:
        """What speaks against the attributions, in words; empty if nothing does."""
        checks = [
            (self.gap <= _WARN_GAP, f"the sum misses {self.gap:.0%} of the change of F (at most 35 % is sound)"),
            (self.l1 <= _WARN_L1, f"attributions add up to {self.l1:.1f} times the change of F (at most 3 is sound)"),
            (
                self.halves_correlation >= _WARN_HALVES,
                f"two halves of the nodes correlate to {self.halves_correlation:.2f} (at least 0.8 is sound)",
            ),
        ]
        return [text for sound, text in checks if not sound]


# Where the reasoning raises the answer's log-probability by less than this, in nats (a factor of 1.6), it explains
# next to nothing of it
LEAST_GAIN = 0.5

# A run with a larger share of unsettled traces is refused where one is asked to be strict
MOST_UNSETTLED = 0.1


@dataclass
class ReliabilityCount:
    """
    How far the scores of many traces can be trusted.

    Args:
        unsettled (`list[str]`, *optional*):
            Names of the traces whose attributions are not settled.
        unread (`list[str]`, *optional*):
            Names of the traces whose reasoning raises the answer's log-probability by less than half a nat.
        read (`int`, *optional*, defaults to `0`):
            Number of the others.
    """

    unsettled: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    read: int = 0
    _gaps: array = field(default_factory=lambda: array("d"), repr=False)
    _l1: array = field(default_factory=lambda: array("d"), repr=False)
    _halves: array = field(default_factory=lambda: array("d"), repr=False)

    def add(self, name: str, reliability: Reliability | None, gain: float | None = None) -> None:
        """
        Count a trace.

        Args:
            name (`str`):
                Its name.
            reliability ([`Reliability`] or `None`):
                What its row says; `None`, from scorers that integrate nothing, counts as no trace.
            gain (`float`, *optional*):
                By how much the reasoning raises the answer's log-probability, in nats, where that is known.
        """
        if gain is not None:
            if gain < LEAST_GAIN:
                self.unread.append(name)
            else:
                self.read += 1
        if reliability is None:
            return
        self._gaps.append(reliability.gap)
        self._l1.append(reliability.l1)
        self._halves.append(reliability.halves_correlation)
        if not reliability.settled:
            self.unsettled.append(name)

    @property
    def traces(self) -> int:
        """Number of traces that were integrated."""
        return len(self._gaps)

    def describe(self) -> str:
        """One line with the medians; empty where nothing was integrated."""
        if not self.traces:
            return ""
        gap, l1, halves = (np.median(np.frombuffer(values)) for values in (self._gaps, self._l1, self._halves))
        return (
            f"{self.traces - len(self.unsettled):,} of {self.traces:,} traces; medians: completeness gap {gap:.1%}, "
            f"attributions {l1:.1f} times the change of F, halves of the nodes correlate to {halves:.2f}"
        )

    def warning(self, options: Mapping[str, Any]) -> str | None:
        """
        What to say of a run whose attributions are not all settled.

        Args:
            options (`Mapping[str, Any]`):
                Options of the scorer, as a store keeps them: they decide what can be done about it.

        Returns:
            `str` or `None`: One line; `None` where all are settled.
        """
        if not self.unsettled:
            return None
        cure = "raise `attribution_evaluations` to 64, or attribute in float32"
        if options.get("path") == "all":
            cure = "set `attribution_path='reasoning'`: on real models the path of all tokens cannot be integrated"
        elif options.get("rule") != "hybrid":
            cure = "set `attribution_rule='hybrid'`, which spends evaluations where they are needed"
        return (
            f"The attributions of {len(self.unsettled):,} of {self.traces:,} traces "
            f"({len(self.unsettled) / self.traces:.0%}) are not settled, so that their selection is partly chance: "
            f"{cure}. ({', '.join(self.unsettled[:5])}{', ...' if len(self.unsettled) > 5 else ''})"
        )

    def unread_warning(self) -> str | None:
        """
        What to say of traces that the attribution model does not read.

        Returns:
            `str` or `None`: One line; `None` where there are none.
        """
        if not self.unread:
            return None
        return (
            f"The reasoning raises the answer's log-probability by less than {LEAST_GAIN} nats in "
            f"{len(self.unread):,} of {len(self.unread) + self.read:,} traces, so that their scores say nothing: the "
            "attribution model does not read them (other weights, chat template or answers than it should have), or "
            f"knows the answer without them. `min_gain={LEAST_GAIN}` trains such traces in full. "
            f"({', '.join(self.unread[:5])}{', ...' if len(self.unread) > 5 else ''})"
        )

    def check(self, options: Mapping[str, Any]) -> None:
        """
        Refuse a run of which too much is not settled.

        Args:
            options (`Mapping[str, Any]`):
                See [`~ReliabilityCount.warning`].

        Raises:
            `ValueError`: If that is so for more than a tenth of the traces.
        """
        if self.traces and len(self.unsettled) > MOST_UNSETTLED * self.traces:
            raise ValueError(f"{self.warning(options)} `attribution_strict` refuses more than a tenth.")
