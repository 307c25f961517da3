"""What the words of the pages mean: shown where a reader points at one, or moves the focus to it."""

from ..selection.reliability import AGREEING_HALVES, COMPLETE_GAP, LEAST_GAIN, MOST_L1, RELIABLE_HALVES


DEFINITIONS = {
    "trained": (
        "A trained (kept) segment counts in the loss. The model reads a dropped one, but does not learn from it."
    ),
    "kept_tokens": "Tokens of the kept segments, as a share of all tokens of the reasoning.",
    "in_full": (
        "Every token of the reasoning is trained, as in plain supervised fine-tuning, since there are no scores "
        "to choose by."
    ),
    "strength": (
        "How much a segment matters to the answer: the sum of its tokens' absolute attributions over the square "
        "root of their number, in nats. Some scorers give a segment a score as a whole instead."
    ),
    "mean_strength": (
        "Mean strength of the segments of a trace, in nats. A segment's strength is the sum of its tokens' "
        "absolute attributions over the square root of their number."
    ),
    "needed": (
        "The share of a trace's segments, strongest first, that holds 80 % of its strength. Small if few segments "
        "carry the answer, 80 % if all are equally strong."
    ),
    "consistency": (
        "|sum| over sum of absolute values of a segment's token attributions: 1 if all have the same sign, near 0 "
        "if they cancel. Above beta a segment counts as one-sided."
    ),
    "sum": (
        "Sum of a segment's signed token attributions, in nats. Positive: the segment raises the answer's "
        "log-probability."
    ),
    "role": "What the dataset says that the segment is for.",
    "verdict": "Kept, or why not: weak, one-sided or against. The ends of a trace are always kept.",
    "weak": "Dropped: the stronger segments of the trace reach tau without it, or it is under the lowest strength.",
    "one-sided": "Dropped: strong enough, but its consistency is above beta.",
    "against": (
        "Dropped: strong enough, but its direction (sum over sum of absolute values) is under the lowest one, so "
        "that it speaks against the answer."
    ),
    "by chance": "Dropped by a draw that does not look at the scores.",
    "always": "Kept whatever its scores, because it stands at an end of the trace.",
    "tau": "The strongest segments are kept until they hold this share of the trace's strength.",
    "min_strength": "Segments with a strength from here on are kept.",
    "beta": "The highest consistency of a kept segment, on the scale that the selection names.",
    "min_direction": (
        "The lowest direction of a kept segment: sum over sum of absolute values of its token attributions, from "
        "-1 (all against the answer) to 1. At -1 it drops none."
    ),
    "log_probability": (
        "Logarithm of the probability that the attribution model gives to the answer after prompt and reasoning, "
        "in nats; and the same at the baseline, or without the reasoning."
    ),
    "gain": (
        f"By how many nats the reasoning raises the answer's log-probability. Under {LEAST_GAIN:g} the scores say "
        "nothing, since there is next to nothing to attribute."
    ),
    "completeness": (
        "What the attributions of all tokens miss of the rise of the answer's log-probability over the baseline, "
        "as a share of it. 0 % is exact."
    ),
    "defect": (
        "What the quadrature alone misses of that rise: its error along the path, before it is spread over tokens."
    ),
    "evaluations": "Passes forward and backward through the attribution model that the scores took.",
    "reliability": (
        "Settled, not settled (partly chance), unread (the reasoning does not raise the answer), or not measured "
        "(the scorer integrates nothing)."
    ),
    "settled": (
        f"Scores are settled if two halves of the nodes correlate to at least {RELIABLE_HALVES:g} and agree on "
        f"half of the kept segments (Jaccard index {AGREEING_HALVES:g}), the completeness gap is at most "
        f"{COMPLETE_GAP:.0%}, and the absolute attributions add up to at most {MOST_L1:g} times the rise."
    ),
    "reason": "Why a trace is trained in full, or not trained by this store.",
    "position": "Where a segment stands in its trace, by number: 0 is the first, 1 the last.",
    "repetition": (
        "Share of a segment's text, in windows of about four words, that stood before in the question or the trace."
    ),
    "sufficiency": "Confidence in the answer of a model that reads the kept segments alone.",
    "necessity": (
        "Confidence in the answer of a model that reads everything but the kept segments: low if they are needed."
    ),
}
