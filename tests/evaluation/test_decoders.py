"""Other engines that decode: the continuous batching of transformers, and vLLM where it is installed."""

import importlib.util
import sys
import types

import pytest
import torch
from helpers import REPOSITORY
from test_generation import by_generate, many_ends, requests_for

from trl_segment.cli import main as cli
from trl_segment.evaluation import generation
from trl_segment.evaluation.continuous_batching import ContinuousDecoder
from trl_segment.evaluation.generation import DecodingConfig, Request, generate_outputs, planned_batch_size


needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; `make test-vllm` runs this"
)
WORLD = REPOSITORY / "examples" / "tiny_world"


def by_id(outputs):
    return {(o.id, o.sample): (o.token_ids, o.cut_off) for o in outputs}


@pytest.mark.parametrize("batch_size", [None, 2])
def test_continuous_batching_writes_what_generate_writes(model, tokenizer, batch_size):
    ends = many_ends(tokenizer)
    requests = requests_for(tokenizer, [9, 30, 30, 4, 17, 60])
    attention = model.config._attn_implementation
    outputs = by_id(ContinuousDecoder(model, ends, DecodingConfig(max_new_tokens=40), batch_size)(requests))
    assert outputs == {(r.id, 0): by_generate(model, tokenizer, r, 40, ends) for r in requests}
    assert model.config._attn_implementation == attention
    # The model is as before
    assert by_id(generate_outputs(model, requests, ends, DecodingConfig(max_new_tokens=40))) == outputs


def test_continuous_batching_samples_with_its_seed(model, tokenizer):
    requests = requests_for(tokenizer, [9, 30], samples=3)

    def sampled(seed):
        return by_id(ContinuousDecoder(model, {10**5}, DecodingConfig(12, 0.8, 1.0, seed))(requests))

    one = sampled(5)
    assert len(one) == 6 and all(len(ids) == 12 and cut_off for ids, cut_off in one.values())
    assert one == sampled(5) != sampled(6)


def test_continuous_batching_keeps_to_the_positions(tokenizer):
    from helpers import tiny_model

    model = tiny_model(tokenizer, max_position_embeddings=24)
    requests = requests_for(tokenizer, [20, 24, 9])
    outputs = by_id(ContinuousDecoder(model, {10**5}, DecodingConfig(max_new_tokens=10))(requests))
    assert {name: len(ids) for (name, _), (ids, _) in outputs.items()} == {"p0": 4, "p1": 0, "p2": 10}


def test_a_caller_that_stops_asking_leaves_no_thread(model, tokenizer):
    import threading

    before = threading.active_count()
    decode = ContinuousDecoder(model, {10**5}, DecodingConfig(max_new_tokens=5))(requests_for(tokenizer, [9, 9, 9]))
    next(decode)
    decode.close()
    assert threading.active_count() == before


def test_batch_size_comes_from_the_memory(model, monkeypatch):
    """By hand: keys and values of two layers, two heads of 8 numbers, float32; 2.5 times that as the cache grows."""
    assert planned_batch_size(model, 100, 1000) == 64
    text = model.config
    row = 2.5 * (2 * text.num_hidden_layers * text.num_key_value_heads * 8 * 4) * 1100 + 32 * text.vocab_size
    embedding = types.SimpleNamespace(weight=types.SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(model, "get_input_embeddings", lambda: embedding)
    for rows, expected in ((10.5, 10), (0.5, 1), (10**6, 512)):
        monkeypatch.setattr(generation, "free_memory", lambda device, rows=rows: rows * row / 0.8)
        assert planned_batch_size(model, 100, 1000) == expected


def test_auto_takes_vllm_where_it_is_and_says_where_it_fails(tmp_path, monkeypatch, capsys):
    class Failing:
        def __init__(self, **options):
            raise RuntimeError("no kernel for this card")

    broken = types.ModuleType("vllm")
    broken.LLM = Failing
    broken.__spec__ = importlib.util.spec_from_loader("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", broken)
    arguments = ["evaluate", "--models", str(WORLD / "checkpoint"), "--problems", str(WORLD / "problems.jsonl")]
    arguments += ["--max_problems", "1", "--max_new_tokens", "5", "--output_dir", str(tmp_path)]
    cli.main(arguments)
    assert "vLLM does not take" in capsys.readouterr().out
    # vLLM has attention kernels of its own: where one is asked for, it is not tried
    cli.main([*arguments, "--attn_implementation", "eager"])
    assert "vLLM does not take" not in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="no kernel"):
        cli.main([*arguments, "--backend", "vllm"])


def test_continuous_batching_from_the_command_line(tmp_path):
    arguments = ["evaluate", "--models", str(WORLD / "checkpoint"), "--problems", str(WORLD / "problems.jsonl")]
    arguments += ["--max_problems", "2", "--max_new_tokens", "30"]
    written = []
    for backend in ("continuous", "transformers"):
        folder = tmp_path / backend
        cli.main([*arguments, "--output_dir", str(folder), "--backend", backend])
        (file,) = folder.rglob("*.jsonl")
        written.append(sorted(line.split('"solution": ')[1].split('"answer"')[0] for line in file.open()))
    assert written[0] == written[1] and len(written[0]) == 2


@needs_vllm
@pytest.mark.slow
def test_vllm_writes_what_this_package_writes(tmp_path):
    """Greedily on the tiny world's trained model, through the command, and outputs are kept as they end."""
    arguments = ["evaluate", "--models", str(WORLD / "checkpoint"), "--problems", str(WORLD / "problems.jsonl")]
    arguments += ["--max_problems", "8", "--max_new_tokens", "200", "--dtype", "float32"]
    written = []
    for backend in ("auto", "transformers"):
        folder = tmp_path / backend
        cli.main([*arguments, "--output_dir", str(folder), "--backend", backend])
        (file,) = folder.rglob("*.jsonl")
        if backend == "auto":
            (settings,) = folder.rglob("*settings*.json")
            assert '"vllm"' in settings.read_text()
        written.append(sorted(line.split('"solution": ')[1].split('"answer"')[0] for line in file.open()))
    assert written[0] == written[1] and len(written[0]) == 8


@needs_vllm
@pytest.mark.slow
def test_vllm_ends_where_outputs_end():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_segment.evaluation.vllm_backend import VLLMDecoder

    # Not random weights: vLLM has no CPU kernel for heads as narrow as those of the other tests
    folder = str(WORLD / "checkpoint")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    decode = VLLMDecoder(folder, tokenizer, DecodingConfig(max_new_tokens=40), dtype="float32")
    requests = requests_for(tokenizer, [9, 30, 17])
    config = DecodingConfig(max_new_tokens=40)
    assert by_id(decode(requests)) == by_id(generate_outputs(model, requests, decode.end_ids, config))
    samples = [Request("p", sample, requests[0].prompt_ids) for sample in range(3)]
    decode.config = DecodingConfig(12, 0.8)
    one = by_id(decode(samples))
    assert one == by_id(decode(samples)) and len(set(map(str, one.values()))) == 3
