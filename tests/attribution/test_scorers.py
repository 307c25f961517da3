"""The comparison scorers against full logits and autograd by hand."""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment.attribution import SCORERS, AttributionConfig


SEGMENTS = [(3, 9), (9, 14), (14, 21)]
TARGET = (24, 26)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_tokenizer())


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(3, 300, size=30)


def score(model, name, ids, **options):
    result = SCORERS[name](model, **options).attribute(ids, TARGET, SEGMENTS)
    return result, result.segments.strength


def log_probs(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids)[None]).logits[0].log_softmax(-1)


def answer(model, ids, target):
    return sum(log_probs(model, ids)[t - 1, ids[t]].item() for t in range(*target))


@pytest.mark.parametrize("positions", [None, 64])
def test_perplexity_is_the_mean_surprisal_of_the_segments_tokens(positions, model, ids):
    result, strength = score(model, "perplexity", ids, max_tokens_per_forward=positions)
    table = log_probs(model, ids)
    for (start, end), got in zip(SEGMENTS, strength, strict=True):
        assert got == pytest.approx(-np.mean([table[t - 1, ids[t]].item() for t in range(start, end)]), rel=1e-5)
    assert not result.segments.directed and result.segments.sum_signed is None
    assert result.f_baseline is None and result.completeness_gap is None
    assert result.f_input == pytest.approx(answer(model, ids, TARGET), rel=1e-5)


def test_entropy_is_that_of_the_predictions_of_the_segments_tokens(model, ids):
    _, strength = score(model, "entropy", ids)
    table = log_probs(model, ids)
    entropy = -(table.exp() * table).sum(-1)
    for (start, end), got in zip(SEGMENTS, strength, strict=True):
        assert got == pytest.approx(entropy[start - 1 : end - 1].mean().item(), rel=1e-5)


def test_confidence_gain_is_what_a_segment_adds_in_front_of_the_suffix(model, ids):
    _, strength = score(model, "confidence_gain", ids)
    values = []
    for end in (3, 9, 14, 21):
        shortened = np.concatenate([ids[:end], ids[21:26]])
        values.append(answer(model, shortened, (end + 3, end + 5)))
    assert strength == pytest.approx(np.maximum(np.diff(values), 0), rel=1e-4, abs=1e-6)
    assert strength.max() > 0


def without(ids, start, end):
    return np.concatenate([ids[:start], ids[end:]])


def test_opening_surprisal_reads_five_tokens(model, ids):
    _, strength = score(model, "opening_surprisal", ids)
    table = log_probs(model, ids)
    for (start, _), got in zip(SEGMENTS, strength, strict=True):
        assert got == pytest.approx(-np.mean([table[t - 1, ids[t]].item() for t in range(start, start + 5)]), rel=1e-5)


def test_rest_perplexity_is_what_the_rest_loses_without_a_segment(model, ids):
    result, strength = score(model, "rest_perplexity", ids)
    expected = []
    for start, end in SEGMENTS:
        text = without(ids, start, end)
        length = TARGET[1] - end
        rest, whole = (-answer(model, x, (at, at + length)) / length for x, at in ((text, start), (ids, end)))
        expected.append(max(rest - whole, 0))
    assert strength == pytest.approx(expected, rel=1e-4, abs=1e-6) and strength.max() > 0
    assert result.f_input == pytest.approx(answer(model, ids, TARGET), rel=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_attention_is_that_of_the_positions_that_predict_the_answer(kernel, ids):
    model = tiny_model(tiny_tokenizer())
    model.set_attn_implementation(kernel)
    result, strength = score(model, "attention", ids)
    assert model.config._attn_implementation == kernel
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(torch.tensor(ids)[None], output_attentions=True).attentions
    received = torch.stack(layers)[:, 0, :, TARGET[0] - 1 : TARGET[1] - 1].mean(dim=(0, 1, 2)).numpy()
    assert strength == pytest.approx([received[a:b].mean() for a, b in SEGMENTS], rel=1e-4)
    assert result.f_input == pytest.approx(answer(model, ids, TARGET), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-9, -5, -0.5, -0.1], [1, 1, 0]),
        ([-9, -0.5, -5, -0.1], [1, 1, 1]),  # it stood, and fell again
        ([-0.2, -0.5, -0.3, -0.1], [1, 0, 0]),  # it stands without any
        ([-9, -8, -7, -6], [1, 1, 1]),  # and a small step is within the threshold only at the end
    ],
)
def test_first_correct_goes_up_to_where_the_answer_stands(values, expected, model):
    assert SCORERS["first_correct"](model, threshold=0.9)._scores(np.array(values)).tolist() == expected


def test_first_correct_reads_the_values_of_confidence_gain(model, ids):
    values = [answer(model, np.concatenate([ids[:e], ids[21:26]]), (e + 3, e + 5)) for e in (3, 9, 14, 21)]
    scorer = SCORERS["first_correct"](model, threshold=1e-3)
    assert score(model, "first_correct", ids, threshold=1e-3)[1].tolist() == scorer._scores(np.array(values)).tolist()


def test_necessity_and_sufficiency_by_hand(model, ids):
    _, strength = score(model, "necessity_sufficiency", ids)

    def probability(parts):
        text = np.concatenate([ids[:3], *parts, ids[21:26]])
        return np.exp(answer(model, text, (len(text) - 2, len(text))))

    pieces = [ids[a:b] for a, b in SEGMENTS]
    for index, got in enumerate(strength):
        loss = probability(pieces) - probability(pieces[:index] + pieces[index + 1 :])
        gain = probability([pieces[index]]) - probability([])
        assert got == pytest.approx((max(loss, 0) + max(gain, 0)) / 2, rel=1e-3, abs=1e-7)


def test_gradient_times_input_by_autograd(model, ids):
    result, _ = score(model, "gradient_x_input", ids)
    embeddings = model.get_input_embeddings()(torch.tensor(ids)).detach().requires_grad_(True)
    table = model(inputs_embeds=embeddings[None]).logits[0].log_softmax(-1)
    (gradient,) = torch.autograd.grad(sum(table[t - 1, ids[t]] for t in range(*TARGET)), embeddings)
    expected = (gradient * embeddings).sum(-1).detach().numpy()
    assert result.tokens == pytest.approx(expected[: TARGET[1]], rel=1e-4, abs=1e-6)
    assert result.segments.sum_signed[1] == pytest.approx(expected[9:14].sum(), rel=1e-4)
    assert result.segments.sum_abs[1] == pytest.approx(np.abs(expected[9:14]).sum(), rel=1e-4)
    assert result.evaluations == 1


def test_random_scores_belong_to_the_sequence(model, ids):
    (_, first), (_, again), (_, other) = (score(model, "random", x) for x in (ids, ids, ids[::-1].copy()))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert ((first >= 0) & (first < 1)).all()


def test_an_unknown_scorer_is_refused():
    with pytest.raises(ValueError, match=r"Unknown attribution scorer 'shap'.*perplexity"):
        AttributionConfig(attribution_scorer="shap")


def test_the_model_is_left_as_it_was(model, ids):
    model.train()
    for name in ("gradient_x_input", "perplexity", "confidence_gain", "rest_perplexity", "attention"):
        score(model, name, ids)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model.eval()


@pytest.mark.parametrize(
    ("text", "verifies"),
    [
        ("\n\nWait, is that so?", True),
        ("But wait, the table says 7.", True),
        ("Hmm, okay, so let me double-check the sum.", True),
        ("**Verification:** 3 + 4", False),
        ("Verify: 3 + 4 = 7", True),
        ("To verify this, substitute x = 2.", True),
        ("Let's quickly re-check.", True),
        ("I should make sure that x > 0.", True),
        ("Just to be safe, again.", True),
        ("Checking the result", True),
        ("Waiting takes 3 hours.", False),
        ("So let me compute the sum.", False),
        ("Alternatively, use the quadratic formula.", False),
        ("The check costs 5 dollars.", False),
        ("", False),
    ],
)
def test_verification_is_known_by_how_a_segment_opens(text, verifies, model, ids):
    result = SCORERS["verification_opener"](model).attribute(ids, TARGET, SEGMENTS, [text, "x", "Wait"])
    assert result.segments.strength.tolist() == [float(not verifies), 1.0, 0.0]
    assert result.f_input == pytest.approx(answer(model, ids, TARGET), rel=1e-5)
