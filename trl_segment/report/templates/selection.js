"use strict";

// The rule of trl_segment/selection/select.py, operation for operation: both must give the same bits, which
// tests/report/test_trace_page.py checks.

function attributionStrength(segments) {
  // A score of the segment as a whole, or the sum of its tokens'
  return segments.map((segment) => segment.score ?? segment.sum_abs / Math.sqrt(Math.max(segment.num_tokens, 1)));
}

// Scores of whole segments give them no direction
const isDirected = (segments) => segments.every((segment) => segment.score === undefined);

function directionConsistency(segments) {
  return segments.map(({ sum_abs, sum_signed }) =>
    sum_abs === undefined ? 0 : Math.min(Math.abs(sum_signed) / (sum_abs > 0 ? sum_abs : 1), 1),
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

// What beta is compared with
function scaledConsistency(segments, scale) {
  const consistency = directionConsistency(segments);
  if (scale === "chance") {
    return consistency.map((value, i) => {
      const chance = Math.sqrt(2 / (Math.PI * Math.max(segments[i].num_tokens, 1)));
      return (value - chance) / (1 - chance);
    });
  }
  if (scale === "rank") {
    const sorted = [...consistency].sort((a, b) => a - b);
    const rank = new Map();
    sorted.forEach((value, i) => rank.has(value) || rank.set(value, i));
    return consistency.map((value) => rank.get(value) / consistency.length);
  }
  return consistency;
}

function strongSegments(segments, config) {
  const strength = attributionStrength(segments);
  if (config.selection === "threshold") return strength.map((value) => value >= config.min_strength);
  return strongestPrefix(strength, config.tau);
}

function selectSegments(segments, config, gain = null) {
  const tokens = segments.reduce((sum, segment) => sum + segment.num_tokens, 0);
  const strong = strongSegments(segments, config);
  const directed = isDirected(segments);
  const consistency = scaledConsistency(segments, config.consistency_scale);
  const unranked =
    config.selection === "all" ||
    attributionStrength(segments).every((value) => value === 0) ||
    tokens < config.min_tokens_to_mask ||
    (config.min_gain !== null && gain !== null && gain < config.min_gain);
  return segments.map(({ sum_abs, sum_signed }, i) => {
    const forced = i < config.keep_first || i >= segments.length - config.keep_last;
    const supports = !directed || sum_signed >= config.min_direction * sum_abs;
    const mixed = !directed || consistency[i] <= config.beta;
    const kept = unranked || forced || (strong[i] && supports && mixed);
    if (!kept && !strong[i]) return { kept, verdict: "dropped, weak" };
    if (!kept) return { kept, verdict: supports ? "dropped, one-sided" : "dropped, against" };
    return { kept, verdict: forced ? "kept, always" : "kept" };
  });
}
