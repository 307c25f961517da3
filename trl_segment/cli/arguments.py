"""Options that several commands take."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class DatasetArguments:
    """
    The dataset of a command. Names and defaults are those of TRL's `ScriptArguments` and `SFTConfig`.

    Parameters:
        dataset_name (`str`, *optional*):
            Hub name, folder, or file (`.jsonl`, `.json`, `.csv`, `.parquet`).
        dataset_config (`str`, *optional*):
            Configuration of a Hub dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            Split to read.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub name, folder or file (.jsonl, .json, .csv, .parquet) of the dataset."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to read."})
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})


@dataclass
class StreamingDatasetArguments(DatasetArguments):
    """
    The dataset of a command that can stream it. Extends [`DatasetArguments`].

    Parameters:
        dataset_streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows as they come, without downloading all of them first.
    """

    dataset_streaming: bool = field(
        default=False, metadata={"help": "Read rows as they come, without downloading all of them first."}
    )


@dataclass
class StoreArguments:
    """
    The store that a command reads.

    Parameters:
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store, or a dataset on the Hub. It also says how traces are cut.
        segmenter (`str`, *optional*):
            The function that cut the segments, as `"FILE.py:FUNCTION"`. Only for a store that was made with one, since
            a store cannot hold it.
    """

    attributions: str = field(
        default="attributions", metadata={"help": "Folder of the attribution store, or a dataset on the Hub."}
    )
    segmenter: str | None = field(
        default=None,
        metadata={"help": "FILE.py:FUNCTION that cut the segments, only for a store that was made with one."},
    )


@dataclass
class LoadingArguments:
    """
    A model, for commands that know its precision from elsewhere. Names and defaults are those of TRL's `ModelConfig`.

    Parameters:
        model_name_or_path (`str`, *optional*):
            Hub name or folder of a model or of a PEFT adapter.
        model_revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit.
        attn_implementation (`str`, *optional*):
            Attention kernel.
        load_in_8bit (`bool`, *optional*, defaults to `False`):
            Whether to quantize the weights to 8 bits.
        load_in_4bit (`bool`, *optional*, defaults to `False`):
            Whether to quantize the weights to 4 bits.
        bnb_4bit_quant_type (`str`, *optional*, defaults to `"nf4"`):
            Format of 4-bit weights, `"nf4"` or `"fp4"`.
        use_bnb_nested_quant (`bool`, *optional*, defaults to `False`):
            Whether the scales of 4-bit weights are quantized too.
        bnb_4bit_quant_storage (`str`, *optional*):
            Type that packed 4-bit weights are stored in.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Raises:
        `ValueError`: If both numbers of bits are asked for.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub name or folder of a model or of a PEFT adapter."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention kernel."})
    load_in_8bit: bool = field(default=False, metadata={"help": "Quantize the weights to 8 bits."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Quantize the weights to 4 bits."})
    bnb_4bit_quant_type: str = field(
        default="nf4", metadata={"help": "Format of 4-bit weights.", "choices": ["fp4", "nf4"]}
    )
    use_bnb_nested_quant: bool = field(default=False, metadata={"help": "Quantize the scales of 4-bit weights too."})
    bnb_4bit_quant_storage: str | None = field(
        default=None, metadata={"help": "Type that packed 4-bit weights are stored in."}
    )
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})

    def __post_init__(self):
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("`load_in_8bit` and `load_in_4bit` exclude each other. Set one of them.")

    def load(self, dtype: str | None = "auto") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """
        Load the model.

        Args:
            dtype (`str`, *optional*, defaults to `"auto"`):
                Precision of the weights; `"auto"` is that of the checkpoint. `"tf32"` is for the whole process.

        Returns:
            `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: Model and tokenizer.
        """
        from trl import get_quantization_config

        from ..models import load_model
        from ..models.precision import split_precision, use_tf32

        dtype, tf32 = split_precision(dtype)
        if tf32:
            use_tf32()
        return load_model(
            self.model_name_or_path,
            revision=self.model_revision,
            dtype=dtype,
            attn_implementation=self.attn_implementation,
            quantization_config=get_quantization_config(SimpleNamespace(**{**vars(self), "dtype": dtype})),
            chat_template_path=self.chat_template_path,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass
class ModelArguments(LoadingArguments):
    """
    A model and its precision. Extends [`LoadingArguments`].

    Parameters:
        dtype (`str`, *optional*, defaults to `"float32"`):
            Precision of the weights: `"auto"` (that of the checkpoint), `"bfloat16"`, `"float16"` or `"float32"`; or
            `"tf32"`, float32 weights whose products an NVIDIA GPU makes in TF32.
    """

    dtype: str | None = field(
        default="float32",
        metadata={"help": "Precision of the weights.", "choices": ["auto", "bfloat16", "float16", "float32", "tf32"]},
    )


@dataclass
class AttributionModelArguments(LoadingArguments):
    """
    The model that attributes, and its precision. Extends [`LoadingArguments`].

    Parameters:
        dtype (`str`, *optional*):
            Precision of the weights, see [`ModelArguments`]. Defaults to `"auto"` (that of the checkpoint) on an
            accelerator, and to `"float32"` on a CPU.
    """

    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the weights. By default that of the checkpoint, on a CPU float32.",
            "choices": ["auto", "bfloat16", "float16", "float32", "tf32"],
        },
    )

    @property
    def precision(self) -> str:
        """The precision that this process loads the model in."""
        from ..models import process_state

        return self.dtype or ("float32" if process_state().device.type == "cpu" else "auto")
