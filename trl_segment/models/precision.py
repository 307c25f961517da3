"""The precision that a model computes in, for a while or in name."""

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from .inspection import unwrap_adapter
from .sharding import is_sharded


def precision_of(model: PreTrainedModel) -> str:
    """
    The precision that a model computes in without autocast.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.

    Returns:
        `str`: One of [`~trl_segment.precisions.PRECISIONS`] but `"auto"`, or the name of another dtype.
    """
    name = str(model.dtype).removeprefix("torch.")
    on_cuda = model.get_input_embeddings().weight.device.type == "cuda"
    # What TrainingArguments' `tf32` and `torch.set_float32_matmul_precision` set
    return "tf32" if name == "float32" and on_cuda and _tf32() else name


def split_precision(precision: str | None) -> tuple[str | None, bool]:
    """
    What weights are loaded in, and whether products are made in TF32.

    Args:
        precision (`str` or `None`):
            One of [`~trl_segment.precisions.PRECISIONS`].

    Returns:
        `tuple[str | None, bool]`: The `dtype` of `from_pretrained`, and whether it is `"tf32"`.
    """
    return ("float32", True) if precision == "tf32" else (precision, False)


@contextlib.contextmanager
def tf32_products(on: bool) -> Iterator[None]:
    """
    Let a GPU make the products of float32 matrices in TF32, or in full precision, while the context lasts.

    Args:
        on (`bool`):
            Which.
    """
    before = _tf32()
    _set_tf32(on)
    try:
        yield
    finally:
        _set_tf32(before)


def use_tf32() -> None:
    """
    Let a GPU make the products of float32 matrices in TF32 from now on.

    Raises:
        `ValueError`: Where there is no TF32.
    """
    check_tf32()
    _set_tf32(True)


def _tf32() -> bool:
    matmul = torch.backends.cuda.matmul
    # PyTorch 2.9 has replaced the flag, and refuses to be asked in both ways
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def _set_tf32(on: bool) -> None:
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = "tf32" if on else "ieee"
    else:
        matmul.allow_tf32 = on


def check_tf32() -> None:
    """
    Refuse TF32 where there is none.

    Raises:
        `ValueError`: Without an NVIDIA GPU of at least compute capability 8.0.
    """
    if not torch.cuda.is_available() or torch.version.cuda is None or torch.cuda.get_device_capability() < (8, 0):
        raise ValueError("The precision 'tf32' needs an NVIDIA GPU from Ampere on. Use 'float32' here.")


@contextlib.contextmanager
def in_precision(model: PreTrainedModel, precision: str) -> Iterator[None]:
    """
    Let a model compute in another precision than that of its weights, which are as before when the context ends.

    The weights are cast once, so a pass costs what it costs in that precision. Both copies are in memory meanwhile.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Unwrapped model.
        precision (`str`):
            One of [`~trl_segment.precisions.PRECISIONS`].

    Raises:
        `ValueError`: If the model is quantized or spread over processes, if there is no TF32 here, or if a weight has
            no finite value in that precision.
    """
    if precision == "auto":
        yield
        return
    name, tf32 = split_precision(precision)
    if tf32:
        check_tf32()
    dtype = getattr(torch, name)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    others = {name: tensor for name, tensor in tensors if tensor.is_floating_point() and tensor.dtype != dtype}
    # Norms of some models, and rotary tables, are float32 on purpose
    others = {name: tensor for name, tensor in others.items() if tensor.dtype == model.dtype}
    if model.dtype != dtype and (is_sharded(model) or getattr(unwrap_adapter(model), "hf_quantizer", None)):
        raise ValueError(
            f"A model in {model.dtype} that is quantized or spread over processes cannot compute in {precision}. "
            "Leave `attribution_dtype` out, or make the attributions first with `trl-segment attribute --dtype "
            f"{precision}` and pass their folder as `attributions`."
        )
    own = {name: tensor.data for name, tensor in others.items()}
    with tf32_products(tf32) if name == "float32" else contextlib.nullcontext():
        try:
            for name, tensor in others.items():
                tensor.data = tensor.data.to(dtype)
                if not torch.isfinite(tensor.data).all():
                    raise ValueError(
                        f"The weight {name!r} has values that {precision} cannot hold. Use 'bfloat16' or 'float32'."
                    )
            yield
        finally:
            for name, data in own.items():
                others[name].data = data
