"""What is no causal language model with a tokenizer is refused when it is loaded, with the reason."""

import pytest
import torch
from helpers import tiny_model, tiny_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Qwen2ForSequenceClassification,
    Qwen2Tokenizer,
)

from trl_segment.models import check_tokenizer, load_model


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def encoder(tokenizer):
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **config))


REFUSED = {
    "without its head": (lambda tokenizer: tiny_model(tokenizer).model, "lacks 1 of the weights .* lm_head.weight"),
    "a classifier": (
        lambda tokenizer: Qwen2ForSequenceClassification(tiny_model(tokenizer).config),
        "lacks 1 of the weights .* lm_head.weight",
    ),
    "an encoder": (encoder, "is no causal language model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_head_of_its_own_is_refused(case, tmp_path, tokenizer):
    make, message = REFUSED[case]
    make(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path))


def test_a_folder_without_tokenizer_files_is_refused(tmp_path, tokenizer):
    tiny_model(tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="makes no token of"):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match="makes no token of"):
        check_tokenizer(Qwen2Tokenizer())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_models_are_loaded(dtype, tied, tmp_path, tokenizer):
    model = tiny_model(tokenizer, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_model(str(tmp_path), dtype=dtype)
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.to(other.dtype), other)
        assert other.requires_grad
