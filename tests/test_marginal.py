"""The backward sweep against whole forward passes over texts with segments left out, without any cache."""

import math

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.attribution import AttributionConfig, BackwardSweep
from trl_segment.attribution.marginal import _in_long_run


TARGET = (40, 43)
SEGMENTS = [(3, 9), (9, 9), (9, 17), (17, 23), (23, 30), (30, 36)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_tokenizer())


@pytest.fixture(scope="module")
def peaked():
    """Random weights are sure of nothing; sharper logits make tokens more than half probable."""
    model = tiny_model(tiny_tokenizer())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)
    return model.eval()


@pytest.fixture(scope="module")
def ids(peaked):
    """Three tokens in four are what the model would say, so that there is something to rewrite."""
    generator = np.random.default_rng(3)
    ids = generator.integers(3, 300, size=3).tolist()
    while len(ids) < 45:
        likeliest = peaked(torch.tensor(ids)[None]).logits[0, -1].argmax().item()
        ids.append(likeliest if generator.random() < 0.75 else int(generator.integers(3, 300)))
    return np.array(ids)


@torch.no_grad()
def table(model, tokens):
    """Log-probabilities, entry t those of token t; entry 0 is never read."""
    logits = model(torch.tensor(np.asarray(tokens))[None], use_cache=False).logits[0].double().log_softmax(-1)
    return torch.cat([torch.full_like(logits[:1], float("nan")), logits[:-1]])


def of_answer(model, read, meant):
    """The last three tokens of `meant`, after what stands in front of each in `read`."""
    values = table(model, read)
    return sum(values[t, meant[t]].item() for t in range(len(meant) - 3, len(meant)))


def runs(places):
    """Places in groups without a gap."""
    groups = []
    for place in places:
        if groups and groups[-1][-1] == place - 1:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def sweep_by_hand(model, ids, threshold, rounds):
    ids = list(ids[: TARGET[1]])
    head, tail = ids[:3], ids[36:]
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
        inside = range(start, len(after) - len(tail))
        sure = [t for t in inside if with_it[t + size, before[t + size]].item() > math.log(0.5)]
        read, pending = list(after), loss
        for _ in range(rounds):
            if loss >= threshold or not sure:
                break
            best = table(model, read).argmax(-1)
            changed = [t for t in sure if int(best[t]) != after[t]]
            long = {t for run in runs(changed) if len(run) > 4 for t in run}
            sure = [t for t in sure if t not in long]
            written = [int(best[t]) if t in changed and t not in long else after[t] for t in range(len(after))]
            if written == read:
                loss = max(loss, pending)
                break
            read, pending = written, reference - of_answer(model, written, after)
        losses[i] = loss
        if loss < threshold:
            kept.remove(i)
    return losses, kept


@pytest.mark.parametrize("rounds", [0, 4, 16])
@pytest.mark.parametrize("threshold", [0.01, 2.0, 50.0])
@pytest.mark.parametrize("positions", [None, 64])
def test_losses_are_those_of_whole_passes_over_what_is_left(threshold, rounds, positions, peaked, ids):
    losses, kept = sweep_by_hand(peaked, ids, threshold, rounds)
    result = BackwardSweep(peaked, threshold, rounds, positions).attribute(ids, TARGET, SEGMENTS)
    strength = result.sum_abs / np.sqrt(np.maximum(result.num_tokens, 1))
    np.testing.assert_allclose(strength, np.maximum(losses, 0), atol=2e-3)
    assert np.flatnonzero(strength >= threshold).tolist() == [i for i in kept if SEGMENTS[i][0] < SEGMENTS[i][1]]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_long_rows_of_changed_places(changed):
    places = [t for t, one in enumerate(changed) if one]
    expected = {t for run in runs(places) if len(run) > 4 for t in run}
    assert set(_in_long_run(torch.tensor(changed)).nonzero()[:, 0].tolist()) == expected


def test_rewriting_changes_losses(peaked, ids):
    """Or the test above would say nothing about it."""
    plain, rewritten = (BackwardSweep(peaked, 50.0, rounds).attribute(ids, TARGET, SEGMENTS) for rounds in (0, 4))
    assert (rewritten.sum_abs >= plain.sum_abs - 1e-3).all()
    assert (rewritten.sum_abs > plain.sum_abs + 0.1).any()


def test_the_model_is_left_as_it_was_and_the_answer_is_worth_what_it_is(model, ids):
    model.train()
    result = BackwardSweep(model).attribute(ids, TARGET, SEGMENTS)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    assert result.f_input == pytest.approx(of_answer(model, ids[:43], ids[:43]), rel=1e-4)
    assert result.num_tokens.tolist() == [6, 0, 8, 6, 7, 6]
    assert result.sum_signed.tolist() == [0] * 6
    assert result.evaluations >= 1 and result.finite


@pytest.mark.parametrize(("threshold", "rounds"), [(0.0, 0), (-1.0, 0), (float("nan"), 0), (0.3, -1)])
def test_settings_that_cannot_work(threshold, rounds, model):
    with pytest.raises(ValueError, match="was passed"):
        BackwardSweep(model, threshold, rounds)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_cannot_work_is_refused_by_the_configuration(threshold):
    with pytest.raises(ValueError, match=r"attribution_threshold.*was passed"):
        AttributionConfig(attribution_threshold=threshold)
