"""
Attribution on an accelerator, where there is one: precisions, attention kernels, nodes a pass, a memory budget,
quantization. Each is compared with float32 on the CPU.
"""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment.attribution import IntegratedGradients
from trl_segment.models import Passes


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
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert cosine(engine().attribute(IDS, TARGET, SEGMENTS), expected) > 0.999
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


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
