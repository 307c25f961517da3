"""Everything about running a model, nothing about attribution: loading, inspection, passes, sharding."""

from .frozen import checkpointing, frozen_mode
from .inspection import plain_cache, slices_logits, unwrap_adapter, weights_fingerprint
from .loading import check_tokenizer, load_config, load_model, load_tokenizer, name_pad_token
from .passes import EmbeddingSwap, Passes, split_target, wait_for_others
from .process import process_state
from .sharding import Lockstep, Pass, gathered, is_sharded


__all__ = [
    "EmbeddingSwap",
    "Lockstep",
    "Pass",
    "Passes",
    "check_tokenizer",
    "checkpointing",
    "frozen_mode",
    "gathered",
    "is_sharded",
    "load_config",
    "load_model",
    "load_tokenizer",
    "name_pad_token",
    "plain_cache",
    "process_state",
    "slices_logits",
    "split_target",
    "unwrap_adapter",
    "wait_for_others",
    "weights_fingerprint",
]
