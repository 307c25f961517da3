"""What can be learned of a model without running it: its parts, what it can be asked, and what it is told apart by."""

import hashlib
import inspect
import json
import os
from pathlib import Path

import torch
import xxhash
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .sharding import gathered


# Numbers: bounds the float32 copy of an embedding table
_HASHED_AT_A_TIME = 2**24


# What a model's config says besides what it computes; weights, precision and baseline have settings of their own
_NOT_COMPUTATION = {
    *("_name_or_path", "_attn_implementation", "architectures", "auto_map", "dtype", "model_type", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config", "transformers_version", "use_cache"),
}


def unwrap_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def neutral_token(model_config: PreTrainedConfig) -> int | None:
    """
    The token that stands where nothing is to be read: the padding token, or else the end of the text.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the model.

    Returns:
        `int` or `None`: Its ID; `None` if the model has neither.
    """
    config = model_config.get_text_config()
    for token in (config.pad_token_id, config.eos_token_id):
        token = token[0] if isinstance(token, (list, tuple)) else token
        if token is not None:
            return token
    return None


def slices_logits(model: torch.nn.Module) -> bool:
    """Whether a model can be asked for the logits of some positions only."""
    # PEFT, accelerate and TRL wrap `forward`, so the model's own class is asked
    return "logits_to_keep" in inspect.signature(type(unwrap_adapter(model)).forward).parameters


def plain_cache(model: PreTrainedModel) -> bool:
    """
    Whether all that a model remembers of a prefix are the keys and values of each of its tokens (no sliding window, no
    recurrent state), so that its cache can be cut anywhere.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.

    Returns:
        `bool`: Whether it is so.
    """
    layers = DynamicCache(config=model.config).layers
    return len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)


def cache_can_be_cut(model: PreTrainedModel) -> bool:
    """
    Whether a [`~transformers.DynamicCache`] of every token's keys and values is all that a model needs to go on from a
    prefix. A sliding window can be read from it, a recurrent state cannot.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.

    Returns:
        `bool`: Whether it is so.
    """
    layers = DynamicCache(config=model.config).layers
    return len(layers) > 0 and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def config_fingerprint(config) -> str:
    """Hash of what a model's config says about its computation: rotary base, windows, soft caps, ..."""
    values = {name: value for name, value in config.to_diff_dict().items() if name not in _NOT_COMPUTATION}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def tokenizer_fingerprint(tokenizer) -> str:
    """Hash of a tokenizer: vocabulary, merges, how text is normalized and split."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content = sorted(tokenizer.get_vocab().items())
    else:
        # How it was last asked to pad and cut is kept in it too
        content = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def weights_fingerprint(model: torch.nn.Module) -> str:
    """
    Hash of a model's weights: of every parameter's name, shape and values, as float32.

    Args:
        model (`torch.nn.Module`):
            A model, or a PEFT model: its adapter does not count, so base model and adapter model agree. It may be
            sharded: then all processes must call this, and the result is that of the whole model.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    base, _ = _split_parameters(model)
    return _hash_of(base)


def files_fingerprint(folder: str | os.PathLike) -> str:
    """
    Hash of the files of a model in a folder, for engines that load it themselves.

    Args:
        folder (`str` or `os.PathLike`):
            Folder with config, weights and tokenizer.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = xxhash.xxh3_128()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with open(file, "rb") as content:
                while piece := content.read(_HASHED_AT_A_TIME):
                    digest.update(piece)
    return digest.hexdigest()[:16]


def adapter_fingerprint(model: torch.nn.Module) -> str:
    """
    Hash of a PEFT model's adapter, like [`weights_fingerprint`] of the rest.

    Args:
        model (`torch.nn.Module`):
            A model, or a PEFT model.

    Returns:
        `str`: 16 hexadecimal digits, or `"off"` for a model without an adapter.
    """
    return _hash_of(_split_parameters(model)[1]) if hasattr(model, "get_base_model") else "off"


def _split_parameters(model) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters of the base model under the names they have without an adapter, and those of the adapter."""
    base = unwrap_adapter(model)
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)
    adapter_parts = [part for part in (prefix, "modules_to_save.", "trainable_tokens_") if part]
    of_base, of_adapter = {}, {}
    for name, parameter in base.named_parameters():
        name = name.replace("_checkpoint_wrapped_module.", "")
        if base is not model:
            if any(part in name for part in adapter_parts):
                of_adapter[name] = parameter
                continue
            for wrapper in (".base_layer", ".original_module", ".token_adapter"):
                name = name.replace(wrapper, "")
        of_base[name] = parameter
    if base is not model:
        # What stands beside the base model, such as the virtual tokens of prompt tuning
        inside = {id(parameter) for parameter in base.parameters()}
        of_adapter |= {name: value for name, value in model.named_parameters() if id(value) not in inside}
    return of_base, of_adapter


def _hash_of(parameters) -> str:
    # Not cryptographic: it tells models apart, and is read at the speed of memory
    digest = xxhash.xxh3_128()
    for name in sorted(parameters):
        with gathered(parameters[name]) as parameter:
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            for piece in parameter.flatten().split(_HASHED_AT_A_TIME):
                digest.update(piece.float().cpu().numpy())
    return digest.hexdigest()[:16]
