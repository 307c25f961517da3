"""Load a model, or an adapter on its base model, for evaluation."""

import contextlib

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from ..attribution.loading import load_attribution_model


def load_model_or_adapter(
    name_or_path: str,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load a causal language model and its tokenizer. An adapter is merged into its base model.

    Args:
        name_or_path (`str`):
            Hub name or folder of a model or of a PEFT adapter, whose configuration names the base model.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision; `"auto"` is that of the checkpoint.
        attn_implementation (`str`, *optional*):
            Attention kernel. Defaults to transformers' choice.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The adapter's own tokenizer where it has one, else the base
        model's.

    Raises:
        `ImportError`: If it is an adapter and PEFT is not installed.
    """
    base = name_or_path
    adapter = find_adapter_config_file(name_or_path)
    if adapter is not None:
        try:
            from peft import PeftConfig, PeftModel
        except ImportError as error:
            raise ImportError(f"{name_or_path!r} is an adapter. Install PEFT: pip install peft") from error
        base = PeftConfig.from_pretrained(name_or_path).base_model_name_or_path
    model, tokenizer = load_attribution_model(
        base,
        revision=None if adapter else "main",
        dtype=dtype,
        attn_implementation=attn_implementation,
        chat_template_path=chat_template_path,
        trust_remote_code=trust_remote_code,
    )
    if adapter is not None:
        model = PeftModel.from_pretrained(model, name_or_path).merge_and_unload()
        with contextlib.suppress(OSError, ValueError):  # none saved with the adapter
            tokenizer = load_tokenizer(name_or_path, chat_template_path, trust_remote_code)
    return model.eval(), tokenizer


def load_tokenizer(
    name_or_path: str, chat_template_path: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer.

    Args:
        name_or_path (`str`):
            Hub name or folder.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of its chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Returns:
        `PreTrainedTokenizerBase`: The tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    if chat_template_path is not None:
        with open(chat_template_path, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    return tokenizer
