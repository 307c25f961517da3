"""When more quadrature cannot change which segments are kept."""

from collections.abc import Sequence

import numpy as np

from ..selection import SelectionConfig, select, sum_over_segments


class SelectionSettled:
    """
    Says, round by round, whether the selection of segments still depends on the quadrature error.

    It does not if the last three rounds kept the same segments, and would have kept the same under the estimated error
    of the whole integral or of any one panel, added or subtracted.

    Args:
        segments (`Sequence[tuple[int, int]]`):
            Token span of each segment.
        config ([`~trl_segment.SelectionConfig`]):
            The thresholds that the attributions are for.
    """

    def __init__(self, segments: Sequence[tuple[int, int]], config: SelectionConfig):
        self.segments, self.config = segments, config
        self._kept: list[np.ndarray] = []

    def __call__(self, attributions: np.ndarray, errors: list[np.ndarray]) -> bool:
        kept = self._select(attributions)
        self._kept = [*self._kept[-2:], kept]
        if len(self._kept) < 3 or not all(np.array_equal(kept, earlier) for earlier in self._kept):
            return False
        return all(
            np.array_equal(kept, self._select(attributions + sign * error))
            for error in (sum(errors), *errors)
            for sign in (1, -1)
        )

    def _select(self, attributions):
        # Without the trace's key: of a draw at random only the number of drawn segments depends on the scores
        return select(sum_over_segments(attributions, self.segments), self.config).kept
