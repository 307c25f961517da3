"use strict";

// The rule of trl_segment/selection.py, operation for operation: both must give the same bits, which
// tests/test_trace_page.py checks.

function attributionStrength(segments) {
  return segments.map((segment) => segment.sum_abs / Math.sqrt(Math.max(segment.num_tokens, 1)));
}

function directionConsistency(segments) {
  return segments.map(({ sum_abs, sum_signed }) =>
    Math.min(Math.abs(sum_signed) / (sum_abs > 0 ? sum_abs : 1), 1),
  );
}

function strongestPrefix(strength, tau) {
  const order = strength.map((_, index) => index).sort((a, b) => strength[b] - strength[a]);
  const kept = strength.map(() => false);
  let total = 0;
  const cumulative = order.map((index) => (total += strength[index]));
  if (!(total > 0)) return kept;
  const goal = tau * total * (1 - 1e-12);
  for (let i = 0; i < order.length; i++) {
    kept[order[i]] = strength[order[i]] > 0;
    if (cumulative[i] >= goal) break;
  }
  return kept;
}

function selectSegments(segments, config) {
  const tokens = segments.reduce((sum, segment) => sum + segment.num_tokens, 0);
  const strong = strongestPrefix(attributionStrength(segments), config.tau);
  const consistency = directionConsistency(segments);
  const unranked = segments.every((segment) => segment.sum_abs === 0) || tokens < config.min_tokens_to_mask;
  return segments.map((_, i) => {
    const forced = i < config.keep_first || i >= segments.length - config.keep_last;
    const kept = unranked || forced || (strong[i] && consistency[i] <= config.beta);
    if (!kept) return { kept, verdict: strong[i] ? "dropped, one-sided" : "dropped, weak" };
    return { kept, verdict: forced ? "kept, always" : "kept" };
  });
}
