"""
Attribution on an accelerator, where there is one: precisions, attention kernels, nodes a pass, a memory budget,
quantization. Each is compared with float32 on the CPU.
"""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment.attribution import IntegratedGradients
from trl_segment.attribution.cost import activation_bytes, embedding_bytes
from trl_segment.attribution.memory import USABLE, free_memory
from trl_segment.models import Passes
from trl_segment.models.compiled import compiled_layers
from trl_segment.models.precision import in_precision, precision_of, tf32_products


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]

IDS = np.arange(3, 83) % 120
TARGET, SEGMENTS = (76, 80), [(10, 30), (30, 50), (50, 70)]


def engine(device="cuda", dtype=torch.float32, attention="sdpa", **options):
    model = tiny_model(tiny_tokenizer())
    model.set_attn_implementation(attention)
    return IntegratedGradients(model.to(device=device, dtype=dtype), rule="midpoint", evaluations=8, **options)


@pytest.fixture(scope="module")
def expected():
    return engine("cpu").attribute(IDS, TARGET, SEGMENTS)


def cosine(result, expected):
    return result.tokens @ expected.tokens / np.linalg.norm(result.tokens) / np.linalg.norm(expected.tokens)


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 0.9999), (torch.float16, 0.999), (torch.bfloat16, 0.98)], ids=str
)
def test_precisions(dtype, least, expected):
    assert cosine(engine(dtype=dtype).attribute(IDS, TARGET, SEGMENTS), expected) > least


def test_tensor_float_32(expected):
    with tf32_products(True):
        assert cosine(engine().attribute(IDS, TARGET, SEGMENTS), expected) > 0.999


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_attention_kernels(attention, expected):
    dtype = torch.float32
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
        dtype = torch.bfloat16
    result = engine(dtype=dtype, attention=attention).attribute(IDS, TARGET, SEGMENTS)
    assert cosine(result, expected) > (0.98 if dtype == torch.bfloat16 else 0.9999)


def test_token_ids_on_the_device(expected):
    result = engine().attribute(torch.tensor(IDS, device="cuda"), TARGET, SEGMENTS)
    assert cosine(result, expected) > 0.9999


@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_nodes_a_pass_and_checkpointing(budget, expected):
    """One node with recomputation, one node without, all nodes together."""
    result = engine(max_tokens_per_forward=budget).attribute(IDS, TARGET, SEGMENTS)
    assert cosine(result, expected) > 0.9999


def test_out_of_memory_is_survived_with_a_smaller_budget(monkeypatch, expected):
    tried, gradients, failed = engine(max_tokens_per_forward=10_000), Passes.gradients, []

    def once(self, nodes, *args):
        if len(nodes) > 2:
            failed.append(len(nodes))
            raise torch.OutOfMemoryError("by the test")
        return gradients(self, nodes, *args)

    monkeypatch.setattr(Passes, "gradients", once)
    assert cosine(tried.attribute(IDS, TARGET, SEGMENTS), expected) > 0.9999
    assert failed


def test_passes_are_planned_from_the_free_memory(expected, monkeypatch):
    """Nodes run together where there is room; a budget under one node recomputes as few layers as it can."""
    plans, gradients = [], Passes.gradients
    monkeypatch.setattr(
        Passes,
        "gradients",
        lambda self, nodes, real, base, layers: (
            plans.append((len(nodes), layers)) or gradients(self, nodes, real, base, layers)
        ),
    )
    assert free_memory(torch.device("cuda")) > 2**28
    assert cosine(engine().attribute(IDS, TARGET, SEGMENTS), expected) > 0.9999
    assert plans == [(8, 0)]
    plans.clear()
    config = tiny_model(tiny_tokenizer()).config
    node = float(activation_bytes(config, 79, 4) + embedding_bytes(config, 79, 4))
    assert cosine(engine(memory=int(node)).attribute(IDS, TARGET, SEGMENTS), expected) > 0.9999
    assert {nodes for nodes, _ in plans} == {1} and {layers for _, layers in plans} == {1}


@pytest.mark.parametrize("tokens", [512, 2048])
def test_a_pass_takes_the_memory_that_was_planned(tokens):
    """The allocator's peak of a pass over a wide layer stack, against the plan's bytes."""
    model = tiny_model(
        tiny_tokenizer(), hidden_size=512, intermediate_size=2048, num_hidden_layers=8, max_position_embeddings=4096
    ).to(device="cuda", dtype=torch.bfloat16)
    ids = np.arange(3, 3 + tokens) % 120
    sequence = ids, (tokens - 4, tokens), [(10, tokens // 2), (tokens // 2, tokens - 10)]
    tried = IntegratedGradients(model, rule="midpoint", evaluations=2, max_tokens_per_forward=tokens)
    tried.attribute(*sequence)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    tried.attribute(*sequence)
    taken = torch.cuda.max_memory_allocated() - before
    planned = activation_bytes(model.config, tokens, 2) + embedding_bytes(model.config, tokens, 2)
    assert taken < planned / USABLE


def test_compiled_layers(expected):
    """Two lengths, one compilation; attributions as without."""
    tried = engine()
    with compiled_layers(tried.model):
        assert cosine(tried.attribute(IDS, TARGET, SEGMENTS), expected) > 0.9999
        tried.attribute(IDS[:60], (56, 60), SEGMENTS[:2])


@pytest.mark.parametrize("precision", ["tf32", "float32", "float16", "bfloat16"])
def test_a_model_computes_in_another_precision_and_is_then_as_before(precision, expected):
    tried = engine(dtype=torch.bfloat16)
    with in_precision(tried.model, precision):
        assert precision_of(tried.model) == precision
        assert cosine(tried.attribute(IDS, TARGET, SEGMENTS), expected) > 0.98
    assert precision_of(tried.model) == "bfloat16"


def test_quantized_weights(tmp_path, expected):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    from trl_segment.models import load_model

    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path), quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    result = IntegratedGradients(model, rule="midpoint", evaluations=8).attribute(IDS, TARGET, SEGMENTS)
    assert cosine(result, expected) > 0.9
