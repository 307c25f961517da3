"""Load a model and its tokenizer for attribution."""

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def process_state() -> PartialState:
    """This process among those that a launcher started, if any: its device, its rank, how many there are."""
    # Without being told so, accelerate takes processes on CPU for one
    return PartialState(cpu=not torch.accelerator.is_available())


def load_attribution_model(
    model_name_or_path: str,
    revision: str | None = "main",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    quantization_config=None,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load a causal language model onto this process's device, and its tokenizer.

    Args:
        model_name_or_path (`str`):
            Hub name or folder.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the weights; `"auto"` is that of the checkpoint.
        attn_implementation (`str`, *optional*):
            Attention kernel.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            How to quantize the weights.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: Both know the pad token if either does.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model_name_or_path, revision=revision, trust_remote_code=trust_remote_code
    )
    if chat_template_path is not None:
        with open(chat_template_path, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    device = process_state().device
    model = AutoModelForCausalLM.from_pretrained(
        model_name_or_path,
        revision=revision,
        dtype=dtype,
        attn_implementation=attn_implementation,
        quantization_config=quantization_config,
        device_map={"": device} if quantization_config is not None else None,
        trust_remote_code=trust_remote_code,
    )
    if quantization_config is None:
        model.to(device)
    name_pad_token(model, tokenizer)
    return model, tokenizer


def name_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Let a model's config name the pad token that its tokenizer has, as TRL does: the baseline `"pad"` is read there.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Its config is changed if it names none.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
