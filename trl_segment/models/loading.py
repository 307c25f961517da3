"""Load a model, its tokenizer or its config: the one place where that is done."""

import copy
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, fsdp2_prepare_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from .frozen import frozen_mode
from .inspection import unwrap_adapter
from .process import process_state
from .sharding import is_sharded


def load_tokenizer(
    name_or_path: str,
    revision: str | None = None,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer.

    Args:
        name_or_path (`str`):
            Hub name or folder.
        revision (`str`, *optional*):
            Branch, tag or commit. Defaults to the main branch.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of its chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Returns:
        `PreTrainedTokenizerBase`: The tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        name_or_path, revision=revision or "main", trust_remote_code=trust_remote_code
    )
    if chat_template_path is not None:
        with open(chat_template_path, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    check_tokenizer(tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Refuse a tokenizer that knows no text: transformers makes an empty one of a folder without tokenizer files.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer.

    Raises:
        `ValueError`: If it makes no token of a sentence, or the unknown token alone.
    """
    ids = set(tokenizer("The answer is 5.", add_special_tokens=False, verbose=False)["input_ids"])
    if ids <= {tokenizer.unk_token_id}:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} makes no token of 'The answer is 5.' (its vocabulary has "
            f"{len(tokenizer):,} entries), probably because the folder holds no tokenizer files. Save the model's "
            "tokenizer there (`tokenizer.save_pretrained`), or pass another."
        )


def load_config(name_or_path: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """
    Load a model's config; of an adapter that of its base model.

    Args:
        name_or_path (`str`):
            Hub name or folder of a model or of an adapter.
        revision (`str`, *optional*):
            Branch, tag or commit. Defaults to the main branch.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Returns:
        [`~transformers.PreTrainedConfig`]: The config.
    """
    adapter = _find_adapter(name_or_path, revision)
    if adapter is not None:
        name_or_path, revision = adapter.base_model_name_or_path, adapter.revision
    return AutoConfig.from_pretrained(name_or_path, revision=revision or "main", trust_remote_code=trust_remote_code)


def load_model(
    name_or_path: str,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    quantization_config=None,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
    accelerator: Accelerator | None = None,
    merge_adapter: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load a causal language model, or a PEFT adapter on its base model, onto this process's device, and its tokenizer.

    In a run with DeepSpeed ZeRO-3 or FSDP2 every process holds a part of the model.

    Args:
        name_or_path (`str`):
            Hub name or folder of a model or of an adapter, whose configuration names the base model.
        revision (`str`, *optional*):
            Branch, tag or commit. Defaults to the main branch.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the weights; `"auto"` is that of the checkpoint.
        attn_implementation (`str`, *optional*):
            Attention kernel. Defaults to transformers' choice.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            How to quantize the weights.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
        accelerator ([`~accelerate.Accelerator`], *optional*):
            That of a run that has one. Else one is made if `accelerate launch` was asked to shard models.
        merge_adapter (`bool`, *optional*, defaults to `False`):
            Whether an adapter is merged into its base model, which decodes faster; else it stays beside it.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model in evaluation mode, and the adapter's own
        tokenizer where it has one, else the model's. Both know the pad token if either does.

    Raises:
        `ImportError`: If it is an adapter and PEFT is not installed.
        `NotImplementedError`: If it is an adapter and the run shards models.
        `ValueError`: If the checkpoint lacks weights, the model sees what follows a token, or there is no tokenizer.
    """
    base, base_revision, adapter = name_or_path, revision or "main", _find_adapter(name_or_path, revision)
    if adapter is not None:
        base, base_revision = adapter.base_model_name_or_path, adapter.revision or "main"
    try:
        tokenizer = load_tokenizer(name_or_path, revision, chat_template_path, trust_remote_code)
    except (OSError, ValueError):
        if adapter is None:
            raise
        # None was saved with the adapter
        tokenizer = load_tokenizer(base, base_revision, chat_template_path, trust_remote_code)
    state = process_state()
    if accelerator is None and _sharding_launched():
        # Before the model, which ZeRO-3 partitions as it is made, in the precision that accelerate has told it
        config = load_config(base, base_revision, trust_remote_code)
        precision = getattr(torch, dtype) if dtype not in ("auto", None) else config.dtype or torch.float32
        accelerator = Accelerator(
            mixed_precision={torch.bfloat16: "bf16", torch.float16: "fp16"}.get(precision, "no"),
            # The config's may be "auto", which only the Trainer can fill in
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    if adapter is not None and accelerator is not None and accelerator.distributed_type in _SHARDED:
        raise NotImplementedError(
            f"{name_or_path!r} is an adapter, which cannot be loaded onto a model that is sharded among processes. "
            "Merge it into its base model first (`merge_and_unload` of PEFT), and pass the merged model's folder."
        )
    model, found = AutoModelForCausalLM.from_pretrained(
        base,
        revision=base_revision,
        dtype=dtype,
        attn_implementation=attn_implementation,
        quantization_config=quantization_config,
        device_map={"": state.device} if quantization_config is not None else None,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(
            f"The checkpoint {base!r} lacks {len(missing)} of the weights of a {type(model).__name__}, which would "
            f"be random: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. It was saved without its "
            "head, or as another kind of model. Pass one with the head of a causal language model."
        )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, name_or_path, revision=revision)
        if merge_adapter:
            model = model.merge_and_unload()
    if quantization_config is None:
        model = _place(model, state.device, accelerator)
    name_pad_token(model, tokenizer)
    model.eval()
    if not is_sharded(model):
        _check_causal(model)
    return model, tokenizer


def _check_causal(model: PreTrainedModel) -> None:
    """Refuse an encoder, which predicts a token with what comes after it in view: one pass over four tokens."""
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=model.get_input_embeddings().weight.device)
    with frozen_mode(model), torch.no_grad():
        one, other = model(input_ids=ids, use_cache=False).logits[:, 0].float()
    # Rows of one batch differ by rounding at most; quantization may look at the whole batch for its scale
    rounding = 0.05 if getattr(model, "is_quantized", False) else max(1e-4, 4 * torch.finfo(model.dtype).eps)
    if (one - other).abs().max() > rounding * one.abs().max():
        raise ValueError(
            f"{type(unwrap_adapter(model)).__name__} is no causal language model: its prediction behind the first "
            "token depends on the fourth. An encoder gives an answer no probability of its own. Pass a decoder, such "
            "as the model that wrote the traces."
        )


# What spreads a model's parameters over processes
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def _find_adapter(name_or_path, revision):
    """The configuration of a PEFT adapter, or `None` where it is a model."""
    if find_adapter_config_file(name_or_path, revision=revision) is None:
        return None
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise ImportError(f"{name_or_path!r} is an adapter. Install PEFT: pip install peft") from error
    return PeftConfig.from_pretrained(name_or_path, revision=revision)


def _sharding_launched() -> bool:
    """Whether `accelerate launch` was given a config with DeepSpeed or FSDP."""
    return any(os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true" for kind in ("DEEPSPEED", "FSDP"))


def _place(model: PreTrainedModel, device: torch.device, accelerator: Accelerator | None) -> PreTrainedModel:
    """The model on the device, or sharded over those of all processes."""
    kind = DistributedType.NO if accelerator is None else accelerator.distributed_type
    if kind == DistributedType.FSDP:
        # Frozen, so that accelerate leaves it in the precision it has
        return fsdp2_prepare_model(accelerator, model.requires_grad_(False)).eval()
    if kind == DistributedType.DEEPSPEED and accelerator.deepspeed_plugin.zero_stage == 3:
        return _partition(model, accelerator.deepspeed_plugin.deepspeed_config).eval()
    # ZeRO-1 and 2 shard what training adds to a model, so that there is nothing to shard
    return model.to(device)


def _partition(model: PreTrainedModel, deepspeed_config: dict) -> PreTrainedModel:
    """A model under ZeRO-3 that is not trained; its engine is only needed to set it up."""
    import deepspeed

    zero = {name: value for name, value in deepspeed_config["zero_optimization"].items() if value != "auto"}
    zero.pop("offload_optimizer", None)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": copy.deepcopy(zero),
        "bf16": {"enabled": model.dtype == torch.bfloat16},
        "fp16": {"enabled": model.dtype == torch.float16},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine.module


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
