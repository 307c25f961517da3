"""The adaptive rule, its stop for a decision, and the learnt density."""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment import IntegratedGradients, SelectionConfig
from trl_segment.attribution.decision import SelectionSettled
from trl_segment.attribution.quadrature import Evaluation, adaptive_simpson, density_midpoints


def drive(rule, function):
    """Feed a rule from `function(alpha) -> (F, integrand)`; the integral, and the nodes in the order asked for."""
    nodes, asked = next(rule), []
    while True:
        asked += nodes
        try:
            nodes = rule.send([Evaluation(value, np.asarray(g, dtype=float)) for value, g in map(function, nodes)])
        except StopIteration as stop:
            return stop.value, asked


def cubic(alpha):
    """Two tokens with cubic integrands, which Simpson integrates exactly: a^3 + 1 and -2 a."""
    return alpha**4 / 4 + alpha - alpha**2, [alpha**3 + 1, -2 * alpha]


def spike(alpha, centre=0.61, width=0.02):
    """All of F's increase lies near `centre`; three tokens share it 3 : -1 : 0.5."""
    shares = np.array([3.0, -1.0, 0.5]) / 2.5
    return 10 * np.tanh((alpha - centre) / width), shares * 10 / width / np.cosh((alpha - centre) / width) ** 2


def test_a_cubic_is_exact_after_the_first_nine_evaluations():
    integral, asked = drive(adaptive_simpson(64), cubic)
    assert integral.attributions == pytest.approx([1.25, -1.0], abs=1e-12)
    assert (integral.evaluations, integral.stopped_by) == (9, "tolerance")
    assert asked == [i / 8 for i in range(9)]
    assert integral.defect == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
def test_the_defect_bounds_the_error_on_a_spike(tolerance):
    integral, asked = drive(adaptive_simpson(200, tolerance), spike)
    increase = spike(1.0)[0] - spike(0.0)[0]
    exact = np.array([3.0, -1.0, 0.5]) / 2.5 * increase
    assert integral.stopped_by == "tolerance"
    assert integral.defect <= tolerance * increase
    assert abs(integral.attributions.sum() - increase) <= integral.defect + 1e-9
    assert np.abs(integral.attributions - exact).sum() / np.abs(exact).sum() <= tolerance
    assert len(asked) == len(set(asked)) == integral.evaluations
    # It looks where F rises: most new nodes lie within five widths of the centre
    assert np.mean([abs(node - 0.61) < 0.1 for node in asked[9:]]) > 0.6


def test_the_cap_stops_it_and_says_so():
    integral, asked = drive(adaptive_simpson(15, 1e-9), spike)
    assert (integral.evaluations, integral.stopped_by) == (15, "cap")
    assert len(asked) == 15
    assert integral.defect > 0


def test_a_decision_stops_it_only_with_a_small_defect():
    calls = []

    def settled(attributions, errors):
        calls.append(len(errors))
        return True

    integral, _ = drive(adaptive_simpson(200, 1e-9, settled), spike)
    assert integral.stopped_by == "decision"
    increase = spike(1.0)[0] - spike(0.0)[0]
    assert integral.defect <= 0.2 * increase
    # It was asked every round, with one estimate per panel, while the defect was still large
    assert calls == list(range(4, 4 + len(calls)))
    assert len(calls) > 1


def test_not_a_number_ends_it():
    integral, _ = drive(adaptive_simpson(64), lambda alpha: (float("nan"), [float("nan")]))
    assert (integral.evaluations, integral.stopped_by) == (9, "not finite")


def test_a_decision_needs_three_rounds_and_an_error_that_changes_nothing():
    # Strengths 4, 3, 2, 1 of one token each; tau 0.7 keeps the first two, which hold exactly 0.7
    segments, config = [(0, 1), (1, 2), (2, 3), (3, 4)], SelectionConfig(tau=0.65, beta=1, keep_first=0, keep_last=0)
    tokens, harmless = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0.1, 0.0, 0.0, 0.0])
    settled = SelectionSettled(segments, config)
    assert [settled(tokens, [harmless]) for _ in range(4)] == [False, False, True, True]
    # Half a nat more on the third and less on the second turns their order
    harmful = np.array([0.0, -0.6, 0.6, 0.0])
    assert settled(tokens, [harmless, harmful]) is False
    assert settled(tokens, [-harmful]) is False
    # Another selection starts the count anew
    assert settled(tokens[::-1].copy(), [harmless]) is False
    assert [settled(tokens, [harmless]) for _ in range(3)] == [False, False, True]


def test_density_midpoints_by_hand():
    nodes, weights = density_midpoints(np.ones(10), 5)
    assert nodes == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert weights == pytest.approx([0.2] * 5)
    # All mass in the second of two halves, of which a tenth is spread evenly: .05 of it in the first half
    nodes, weights = density_midpoints(np.array([0.0, 1.0]), 20)
    assert nodes[0] == pytest.approx(0.25)
    assert weights == pytest.approx([0.5] + [0.5 / 19] * 19)
    assert weights.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def sequence():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("I need to add 3 and 11.\n\nWait, let me check: 3 + 11 is 14. So \\boxed{14")["input_ids"]
    return tiny_model(tokenizer), np.array(ids), (len(ids) - 2, len(ids)), [(0, 9), (9, len(ids) - 5)]


def test_learnt_density_is_the_share_of_each_cell(sequence):
    model, ids, target, segments = sequence
    density = IntegratedGradients(model, path="all").learn_density([(ids, target, segments)] * 2, cells=5)
    embed = model.get_input_embeddings()
    values = []
    with torch.no_grad():
        real = embed(torch.tensor(ids[:-1]))
        base = embed(torch.full((len(ids) - 1,), model.config.pad_token_id))
        for alpha in np.linspace(0, 1, 6):
            logits = model(inputs_embeds=(base + alpha * (real - base))[None].float()).logits[0].log_softmax(-1)
            values.append(sum(logits[t - 1, ids[t]].item() for t in range(*target)))
    mass = np.abs(np.diff(values))
    assert density == pytest.approx(mass / mass.sum(), rel=1e-4)
    engine = IntegratedGradients(model, rule="density", evaluations=12, density=density, path="all")
    assert engine.attribute(ids, target, segments).evaluations == 12
    with pytest.raises(ValueError, match="learn_density"):
        IntegratedGradients(model, rule="density", path="all").attribute(ids, target, segments)


def test_engine_says_what_stopped_it(sequence):
    model, ids, target, segments = sequence
    tight = IntegratedGradients(model, "simpson", tolerance=1e-6, evaluations=21, path="all").attribute(
        ids, target, segments
    )
    assert (tight.evaluations, tight.stopped_by) == (21, "cap")
    loose = IntegratedGradients(model, "simpson", tolerance=0.01, evaluations=201, path="all").attribute(
        ids, target, segments
    )
    assert loose.stopped_by == "tolerance"
    assert loose.defect <= 0.01 * abs(loose.f_input - loose.f_baseline)
    assert abs(loose.completeness_gap) <= loose.defect + 1e-6
    decided = IntegratedGradients(model, "simpson", tolerance=1e-6, evaluations=401, stop="decision", path="all")
    assert decided.attribute(ids, target, segments).stopped_by == "decision"
    with pytest.raises(ValueError, match="needs the segments"):
        decided.attribute(ids, target)


def test_smoothgrad_is_the_mean_over_noisy_inputs(sequence):
    model, ids, target, segments = sequence
    options = {"rule": "gauss_legendre", "evaluations": 24}
    plain = IntegratedGradients(model, **options, path="all").attribute(ids, target, segments)
    still = IntegratedGradients(model, noise_samples=2, noise_scale=0.0, **options, path="all").attribute(
        ids, target, segments
    )
    assert still.tokens == pytest.approx(plain.tokens, rel=1e-4, abs=1e-5)
    noisy = IntegratedGradients(model, noise_samples=3, noise_scale=0.2, **options, path="all").attribute(
        ids, target, segments
    )
    assert noisy.evaluations == 3 * 24
    assert not np.allclose(noisy.tokens, plain.tokens, rtol=1e-2)
    again = IntegratedGradients(model, noise_samples=3, noise_scale=0.2, **options, path="all").attribute(
        ids, target, segments
    )
    assert np.array_equal(noisy.tokens, again.tokens)
    # By hand, with the noise that the seed gives: F is the mean over the noisy inputs
    embed = model.get_input_embeddings()
    with torch.no_grad():
        real = embed(torch.tensor(ids[:-1]))
        generator = torch.Generator().manual_seed(0)
        values = []
        for _ in range(3):
            inputs = real + 0.2 * real.std() * torch.randn(real.shape, generator=generator)
            logits = model(inputs_embeds=inputs[None]).logits[0].log_softmax(-1)
            values.append(sum(logits[t - 1, ids[t]].item() for t in range(*target)))
    assert noisy.f_input == pytest.approx(np.mean(values), rel=1e-5)
