"""The backward sweep against whole forward passes over texts with segments left out, without any cache."""

import math

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment.attribution import AttributionConfig, BackwardSweep


TARGET = (84, 87)
SEGMENTS = [(3, 15), (15, 15), (15, 33), (33, 48), (48, 66), (66, 80)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_tokenizer())


def sharpened(factor):
    """Random weights are sure of nothing; sharper logits are."""
    model = tiny_model(tiny_tokenizer())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(factor)
    return model.eval()


@pytest.fixture(scope="module")
def peaked():
    return sharpened(60)


def make_ids(peaked, seed):
    """Three tokens in four are what the model would say, so that there is something to rewrite."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(3, 300, size=3).tolist()
    while len(ids) < 89:
        likeliest = peaked(torch.tensor(ids)[None]).logits[0, -1].argmax().item()
        ids.append(likeliest if generator.random() < 0.75 else int(generator.integers(3, 300)))
    return np.array(ids)


@pytest.fixture(scope="module")
def ids(peaked):
    return make_ids(peaked, 3)


@torch.no_grad()
def table(model, tokens):
    """Log-probabilities, entry t those of token t; entry 0 is never read."""
    logits = model(torch.tensor(np.asarray(tokens))[None], use_cache=False).logits[0].double().log_softmax(-1)
    return torch.cat([torch.full_like(logits[:1], float("nan")), logits[:-1]])


def of_answer(model, read, meant):
    """The last three tokens of `meant`, after what stands in front of each in `read`."""
    values = table(model, read)
    return sum(values[t, meant[t]].item() for t in range(len(meant) - 3, len(meant)))


def sweep_by_hand(model, ids, threshold, rounds):
    ids = list(ids[: TARGET[1]])
    head, tail = ids[:3], ids[80:]
    kept, losses = list(range(len(SEGMENTS))), [0.0] * len(SEGMENTS)
    for i in reversed(range(len(SEGMENTS))):
        start, end = SEGMENTS[i]
        if start == end:
            continue

        def text(segments):
            return head + [t for j in segments for t in ids[slice(*SEGMENTS[j])]] + tail

        before, after = text(kept), text([j for j in kept if j != i])
        size = end - start
        reference, trial = of_answer(model, before, before), of_answer(model, after, after)
        loss = reference - trial
        with_it = table(model, before)
        # The first eight tokens of each segment that is still there stay as they are
        free, place = [], start
        for j in (j for j in kept if j > i):
            length = SEGMENTS[j][1] - SEGMENTS[j][0]
            free += range(place + 8, place + length)
            place += length
        assert place == len(after) - len(tail)
        was = {t: with_it[t + size, after[t]].item() for t in free}
        read, pending = list(after), loss
        for _ in range(rounds):
            if loss >= threshold:
                break
            says = table(model, read)
            falls = [t for t in free if was[t] >= math.log(0.7) and was[t] - says[t, after[t]].item() >= 2.5]
            written = [int(says[t].argmax()) if t in falls else after[t] for t in range(len(after))]
            if written == read:
                loss = max(loss, pending)
                break
            read, pending = written, reference - of_answer(model, written, after)
        losses[i] = loss
        if loss < threshold:
            kept.remove(i)
    return losses, kept


def agrees_with_a_sweep_by_hand(model, ids, threshold, rounds, positions):
    losses, kept = sweep_by_hand(model, ids, threshold, rounds)
    result = BackwardSweep(model, threshold, rounds, positions).attribute(ids, TARGET, SEGMENTS)
    strength = result.segments.strength
    np.testing.assert_allclose(strength, np.maximum(losses, 0), atol=2e-3)
    assert np.flatnonzero(strength >= threshold).tolist() == [i for i in kept if SEGMENTS[i][0] < SEGMENTS[i][1]]


@pytest.mark.parametrize("rounds", [0, 4, 16])
@pytest.mark.parametrize("threshold", [0.01, 100.0, 150.0])
@pytest.mark.parametrize(("seed", "positions"), [(1, None), (2, 64), (3, 64)])
def test_losses_are_those_of_whole_passes_over_what_is_left(threshold, rounds, seed, positions, peaked):
    agrees_with_a_sweep_by_hand(peaked, make_ids(peaked, seed), threshold, rounds, positions)


@pytest.mark.parametrize("seed", [2, 3])
def test_tokens_that_become_a_little_less_likely_stay(seed):
    """Sure enough to be rewritten, and not so sure that whatever changes falls to nothing."""
    model = sharpened(5)
    agrees_with_a_sweep_by_hand(model, make_ids(model, seed), 10.0, 16, None)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rewriting_changes_losses_and_goes_on_for_many_rounds(seed, peaked):
    """Or the test above would say nothing about it."""
    sweeps = [BackwardSweep(peaked, 100.0, rounds) for rounds in (0, 4, 16)]
    plain, some, more = (sweep.attribute(make_ids(peaked, seed), TARGET, SEGMENTS).segments.scores for sweep in sweeps)
    assert (np.abs(some - plain) > 0.1).any() and (np.abs(more - some) > 0.1).any()


def test_the_model_is_left_as_it_was_and_the_answer_is_worth_what_it_is(model, ids):
    model.train()
    result = BackwardSweep(model).attribute(ids, TARGET, SEGMENTS)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    assert result.f_input == pytest.approx(of_answer(model, ids[:87], ids[:87]), rel=1e-4)
    assert result.segments.num_tokens.tolist() == [12, 0, 18, 15, 18, 14]
    assert not result.segments.directed and result.tokens is None and result.completeness_gap is None
    assert result.evaluations >= 1 and result.finite


@pytest.mark.parametrize(("threshold", "rounds"), [(0.0, 0), (-1.0, 0), (float("nan"), 0), (0.3, -1)])
def test_settings_that_cannot_work(threshold, rounds, model):
    with pytest.raises(ValueError, match="was passed"):
        BackwardSweep(model, threshold, rounds)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_cannot_work_is_refused_by_the_configuration(threshold):
    with pytest.raises(ValueError, match=r"attribution_threshold.*was passed"):
        AttributionConfig(attribution_threshold=threshold)
