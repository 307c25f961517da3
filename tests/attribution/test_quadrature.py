import math

import numpy as np
import pytest

from trl_segment.attribution.quadrature import (
    Evaluation,
    check_rule,
    gauss_legendre,
    integrate_fixed,
    midpoint,
    paper,
    trapezoid,
)


RULES = {"paper": paper, "midpoint": midpoint, "trapezoid": trapezoid, "gauss_legendre": gauss_legendre}


def integrate(rule, evaluations, functions):
    """Run a rule on functions of alpha, as the engine would."""
    steps = integrate_fixed(*RULES[rule](evaluations))
    nodes = next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.send([Evaluation(0.0, np.array([f(node) for f in functions], dtype=float)) for node in nodes])
    return stop.value.value


@pytest.mark.parametrize(
    ("rule", "nodes", "weights"),
    [
        (paper(2), [0, 1], [1 / 2, 1 / 2]),
        (paper(3), [0, 0.5, 1], [1 / 3, 1 / 3, 1 / 3]),
        (paper(5), [0, 0.25, 0.5, 0.75, 1], [0.2] * 5),
        (midpoint(1), [0.5], [1]),
        (midpoint(2), [0.25, 0.75], [0.5, 0.5]),
        (midpoint(4), [0.125, 0.375, 0.625, 0.875], [0.25] * 4),
        (trapezoid(2), [0, 1], [0.5, 0.5]),
        (trapezoid(3), [0, 0.5, 1], [0.25, 0.5, 0.25]),
        (trapezoid(5), [0, 0.25, 0.5, 0.75, 1], [0.125, 0.25, 0.25, 0.25, 0.125]),
        (gauss_legendre(1), [0.5], [1]),
        (gauss_legendre(2), [0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6], [0.5, 0.5]),
        (gauss_legendre(3), [0.5 - math.sqrt(15) / 10, 0.5, 0.5 + math.sqrt(15) / 10], [5 / 18, 8 / 18, 5 / 18]),
    ],
)
def test_nodes_and_weights_by_hand(rule, nodes, weights):
    np.testing.assert_allclose(rule[0], nodes, rtol=0, atol=1e-15)
    np.testing.assert_allclose(rule[1], weights, rtol=1e-14)


@pytest.mark.parametrize("evaluations", [2, 3, 7, 50, 128])
@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one_and_nodes_lie_in_order(rule, evaluations):
    nodes, weights = RULES[rule](evaluations)
    assert nodes.shape == weights.shape == (evaluations,)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-13)
    assert (np.diff(nodes) > 0).all() and nodes[0] >= 0 and nodes[-1] <= 1
    np.testing.assert_allclose(nodes + nodes[::-1], 1, atol=1e-14)  # symmetric


def polynomial(coefficients):
    return lambda x: sum(c * x**k for k, c in enumerate(coefficients))


def exact(coefficients):
    return sum(c / (k + 1) for k, c in enumerate(coefficients))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_exact_on_lines(rule):
    for evaluations in (2, 3, 9):
        result = integrate(rule, evaluations, [polynomial([3, -5]), polynomial([0, 1])])
        np.testing.assert_allclose(result.attributions, [0.5, 0.5], rtol=1e-13)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 8])
def test_gauss_legendre_is_exact_up_to_degree_2n_minus_1_and_not_beyond(evaluations):
    coefficients = [(-1) ** k * (k + 1.5) for k in range(2 * evaluations)]
    result = integrate("gauss_legendre", evaluations, [polynomial(coefficients)])
    assert result.attributions[0] == pytest.approx(exact(coefficients), rel=1e-11)
    # The error on x^(2n) is (n!)^4 / ((2n + 1) ((2n)!)^2)
    degree = 2 * evaluations
    result = integrate("gauss_legendre", evaluations, [lambda x: x**degree])
    error = math.factorial(evaluations) ** 4 / ((degree + 1) * math.factorial(degree) ** 2)
    assert 1 / (degree + 1) - result.attributions[0] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("midpoint", lambda n: -1 / (12 * n**2)),
        ("trapezoid", lambda n: 1 / (6 * (n - 1) ** 2)),
        # The mean over linspace(0, 1, n) of x^2 is (2 n - 1) / (6 (n - 1))
        ("paper", lambda n: (2 * n - 1) / (6 * (n - 1)) - 1 / 3),
    ],
)
def test_errors_on_a_square_are_those_of_theory(rule, error):
    for evaluations in (2, 5, 50):
        result = integrate(rule, evaluations, [lambda x: x**2])
        assert result.attributions[0] - 1 / 3 == pytest.approx(error(evaluations), rel=1e-9)


def test_paper_rule_counts_both_ends_in_full():
    """Half a node too much on each side: 1 / (2 n) of the ends' mean against the trapezoid's."""
    result = integrate("paper", 50, [lambda x: float(x == 0), lambda x: float(x == 1), lambda x: float(0 < x < 1)])
    np.testing.assert_allclose(result.attributions, [1 / 50, 1 / 50, 48 / 50], rtol=1e-13)


def test_integral_is_the_weighted_sum_in_float64():
    steps = integrate_fixed(np.array([0.1, 0.9]), np.array([0.25, 0.75]))
    assert next(steps) == [0.1, 0.9]
    with pytest.raises(StopIteration) as stop:
        steps.send([Evaluation(0.0, np.array([4.0, 1.0, 1e-9])), Evaluation(0.0, np.array([0.0, 2.0, 1e9]))])
    integral = stop.value.value
    assert integral.attributions.dtype == np.float64
    assert integral.attributions.tolist() == [1.0, 1.75, 0.25e-9 + 0.75e9]
    assert (integral.evaluations, integral.stopped_by) == (2, "nodes")


@pytest.mark.parametrize("rule", RULES)
def test_every_node_is_counted_as_an_evaluation(rule):
    assert integrate(rule, 7, [lambda x: 1.0]).evaluations == 7


@pytest.mark.parametrize(
    ("rule", "evaluations", "message"),
    [
        ("left", 5, "Unknown quadrature rule 'left'. Pass one of .*'paper', 'midpoint', 'trapezoid'"),
        ("paper", 1, "'paper' needs at least 2 gradient evaluations per trace, but 1 were"),
        ("trapezoid", 1, "'trapezoid' needs at least 2"),
        ("midpoint", 0, "'midpoint' needs at least 1"),
        ("gauss_legendre", -3, "'gauss_legendre' needs at least 1 gradient evaluations per trace, but -3 were"),
    ],
)
def test_rules_that_cannot_work_are_refused(rule, evaluations, message):
    with pytest.raises(ValueError, match=message):
        check_rule(rule, evaluations)
