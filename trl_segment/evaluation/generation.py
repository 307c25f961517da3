"""
Batched decoding with a transformers model: a cache that is written in place, and finished rows that leave the batch.

`model.generate` keeps finished rows in the batch until the last one ends, and its cache is copied as a whole for every
token. With small models and long outputs these copies are most of the time.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..attribution.memory import USABLE, free_memory
from ..models import plain_cache, slices_logits, unwrap_adapter
from ..printing import get_logger


logger = get_logger(__name__)

# Outputs at a time where memory is no question. On a CPU more gain nothing, and on an accelerator it is for the memory
# to say, up to where a step's attention takes longer than all else
_CPU_BATCH, _LARGEST_BATCH = 64, 512
# A cache that grows is copied into one half as large again, and both are there meanwhile
_GROWING = 2.5


@dataclass(frozen=True)
class DecodingConfig:
    """
    How outputs are decoded.

    Parameters:
        max_new_tokens (`int`, *optional*, defaults to `32768`):
            An output is cut off after so many tokens (the paper's limit), or where the model has no more positions.
        temperature (`float`, *optional*, defaults to `0.0`):
            0 takes the likeliest token (greedy). The paper samples at 0.6.
        top_p (`float`, *optional*, defaults to `1.0`):
            Samples from the fewest likeliest tokens that hold this share of the probability, in (0, 1].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples. Each output has a generator of its own, made of this, its problem and its number, so
            that neither batch size nor order changes it.

    Raises:
        `ValueError`: On a value outside its range.
    """

    max_new_tokens: int = 32768
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, but {self.max_new_tokens} was passed.")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"`temperature` must be finite and cannot be negative, but {self.temperature} was passed. 0 is greedy "
                "decoding; the paper samples at 0.6."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` is a share of probability in (0, 1], but {self.top_p} was passed.")


@dataclass(frozen=True)
class Request:
    """
    One output to be made.

    Args:
        id (`str`):
            Problem that it belongs to.
        sample (`int`):
            Which of the problem's outputs it is, from 0.
        prompt_ids (`Sequence[int]`):
            Token IDs of the prompt.
    """

    id: str
    sample: int
    prompt_ids: Sequence[int]


@dataclass(frozen=True)
class Output:
    """
    What a model wrote.

    Args:
        id (`str`):
            Problem.
        sample (`int`):
            Which of its outputs.
        token_ids (`list[int]`):
            Tokens written, the end-of-turn token left out.
        cut_off (`bool`):
            Whether `max_new_tokens` ended it.
        tokens (`int`):
            Number of tokens that the model spent, its end-of-turn token included.
    """

    id: str
    sample: int
    token_ids: list[int]
    cut_off: bool

    @property
    def tokens(self) -> int:
        return len(self.token_ids) + (not self.cut_off)


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of a layer in one buffer with room to grow; rows can be dropped without copying the others."""

    def lazy_initialization(self, key_states, value_states):
        super().lazy_initialization(key_states, value_states)
        self.length, self.rows = 0, key_states.shape[0]
        self.buffers = [
            states.new_empty((*states.shape[:2], 0, states.shape[3])) for states in (key_states, value_states)
        ]

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self.buffers[0].shape[2]:
            # Half as much again each time: every token is copied a few times in all, not once per token
            capacity = max(end + 64, end * 3 // 2)
            for i, old in enumerate(self.buffers):
                new = old.new_empty((self.rows, old.shape[1], capacity, old.shape[3]))
                new[:, :, : self.length] = old[: self.rows, :, : self.length]
                self.buffers[i] = new
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self.length : end] = states
        self.length = end
        self.keys, self.values = (buffer[: self.rows, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def move_rows(self, source: list[int], target: list[int], rows: int) -> None:
        """Copy rows over dropped ones and keep the first `rows`."""
        for buffer in self.buffers:
            for a, b in zip(source, target, strict=True):
                buffer[b, :, : self.length] = buffer[a, :, : self.length]
        self.rows = rows
        self.keys, self.values = (buffer[:rows, :, : self.length] for buffer in self.buffers)


def _new_cache(model: PreTrainedModel) -> tuple[Cache, bool]:
    """A cache for a batch, and whether rows can be dropped from it."""
    cache = DynamicCache(config=model.config)
    if plain_cache(model):
        cache.layers = [_PreallocatedLayer() for _ in cache.layers]
        return cache, True
    # The library's own cache, all rows to the end
    return cache, False


def end_token_ids(config: GenerationConfig | None, tokenizer) -> set[int]:
    """
    Tokens that end an output.

    Args:
        config ([`~transformers.GenerationConfig`] or `None`):
            Those of a model's generation config.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            And its EOS token: fine-tuning can give a model another one than its generation config names.

    Returns:
        `set[int]`: Token IDs.

    Raises:
        `ValueError`: If neither names one.
    """
    ends = getattr(config, "eos_token_id", None)
    ends = set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ValueError(
            f"Neither the generation config of the model nor the tokenizer {tokenizer.name_or_path!r} has an EOS "
            "token, so no output would ever end. Set `tokenizer.eos_token`."
        )
    return ends


def generate_outputs(
    model: PreTrainedModel,
    requests: Sequence[Request],
    end_ids: set[int],
    config: DecodingConfig,
    batch_size: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Output]:
    """
    Decode requests with a model, in batches of prompts of like length.

    Greedy outputs are those of `model.generate` without sampling. Settings of the model's generation config other than
    its end tokens do not count.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, with or without an adapter. Used in evaluation mode and left as it was found.
        requests (`Sequence[Request]`):
            Outputs to make.
        end_ids (`set[int]`):
            Tokens that end an output, see [`end_token_ids`].
        config ([`DecodingConfig`]):
            Length limit, temperature, seed.
        batch_size (`int`, *optional*):
            Outputs made at a time. Defaults to what [`planned_batch_size`] says. Out of memory halves it and goes on.
        on_step (`Callable`, *optional*):
            Called after each step with the number of tokens it made, for a progress bar.

    Yields:
        [`Output`]: As they end, so not in the order of the requests.

    Raises:
        `ValueError`: If a prompt has no tokens.
    """
    waiting, full = split_by_room(model.config, requests)
    yield from full
    waiting.sort(key=lambda request: len(request.prompt_ids))
    if batch_size is None and waiting:
        batch_size = planned_batch_size(model, len(waiting[-1].prompt_ids), config.max_new_tokens)
    training = model.training
    model.eval()
    try:
        while waiting:
            batch = waiting[:batch_size]
            done = set()
            try:
                for output in _decode_batch(model, batch, end_ids, config, on_step):
                    done.add((output.id, output.sample))
                    yield output
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                batch_size = (len(batch) + 1) // 2
                logger.warning(f"Out of memory: {batch_size} outputs at a time from here on.")
            if torch.accelerator.is_available() and batch_size < len(batch):
                torch.accelerator.empty_cache()  # here the failed batch is gone
            waiting = [r for r in batch if (r.id, r.sample) not in done] + waiting[len(batch) :]
    finally:
        model.train(training)


def split_by_room(model_config: PreTrainedConfig, requests: Sequence[Request]) -> tuple[list[Request], list[Output]]:
    """
    Tell requests behind which a model can write something from those whose prompts fill all its positions.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the model.
        requests (`Sequence[Request]`):
            Outputs to make.

    Returns:
        `tuple[list[Request], list[Output]]`: Requests with room, and the empty outputs of the others, which are logged
        by name.

    Raises:
        `ValueError`: If a prompt has no tokens.
    """
    empty = [request.id for request in requests if len(request.prompt_ids) == 0]
    if empty:
        raise ValueError(f"The prompt of {empty[0]!r} has no tokens, so there is nothing to go on from.")
    most = most_positions(model_config)
    full = [request for request in requests if len(request.prompt_ids) >= most]
    if full:
        logger.warning(
            f"{len(full)} prompts fill all {most:,} positions of the model, so nothing is written behind them: "
            f"{', '.join(request.id for request in full[:5])}{', ...' if len(full) > 5 else ''}"
        )
    waiting = [request for request in requests if len(request.prompt_ids) < most]
    return waiting, [Output(request.id, request.sample, [], True) for request in full]


def most_positions(model_config: PreTrainedConfig) -> float:
    """
    Number of tokens that a model has positions for. Behind the last it has learnt none, or fails.

    Args:
        model_config ([`~transformers.PreTrainedConfig`]):
            Config of the model.

    Returns:
        `float`: The number; infinite for a model without positions.
    """
    most = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return math.inf if most is None else most


def planned_batch_size(model: PreTrainedModel, prompt_tokens: int, max_new_tokens: int) -> int:
    """
    How many outputs are made at a time.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, on its device.
        prompt_tokens (`int`):
            Tokens of the longest prompt.
        max_new_tokens (`int`):
            Longest output.

    Returns:
        `int`: On CPU 64; else as many as the free memory holds if all outputs are of the longest length, from 1 to
        512.
    """
    device = model.get_input_embeddings().weight.device
    if device.type == "cpu":
        return _CPU_BATCH
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    tokens = min(prompt_tokens + max_new_tokens, most_positions(model.config))
    # Logits of a step, and what sampling makes of them in float64
    row = _GROWING * token * tokens + 4 * 8 * config.vocab_size
    return int(max(1, min(_LARGEST_BATCH, USABLE * free_memory(device) // row)))


@torch.inference_mode()
def _decode_batch(model, requests, end_ids, config, on_step) -> Iterator[Output]:
    device = model.get_input_embeddings().weight.device
    last = {"logits_to_keep": 1} if slices_logits(model) else {}
    ends = torch.tensor(sorted(end_ids), device=device)
    longest = max(len(request.prompt_ids) for request in requests)
    padding = torch.tensor([longest - len(request.prompt_ids) for request in requests], device=device)
    ids = torch.tensor(
        [[0] * (longest - len(request.prompt_ids)) + list(request.prompt_ids) for request in requests], device=device
    )
    # Not generators on the device: the numbers must not depend on it
    uniform = None
    if config.temperature > 0:
        draws = [_generator(config.seed, request).random(config.max_new_tokens) for request in requests]
        uniform = torch.tensor(np.stack(draws), device=device)

    most = most_positions(model.config)
    room = [min(config.max_new_tokens, most - len(request.prompt_ids)) for request in requests]
    cache, droppable = _new_cache(unwrap_adapter(model))
    rows = list(range(len(requests)))  # which request a row of the batch belongs to
    written: list[list[int]] = [[] for _ in requests]
    finished: set[int] = set()
    positions = torch.arange(longest, device=device)[None] - padding[:, None]
    for step in range(config.max_new_tokens):
        length = longest + step
        mask = None
        if padding.any():
            mask = (torch.arange(length, device=device)[None] >= padding[:, None]).long()
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp(min=0, max=None if most == math.inf else most - 1),
            past_key_values=cache,
            use_cache=True,
            **last,
        ).logits[:, -1]
        if uniform is None:
            tokens = logits.argmax(dim=-1)
        else:
            tokens = sample_tokens(logits, uniform[rows, step], config.temperature, config.top_p)
        if on_step is not None:
            on_step(len(requests) - len(finished))
        ended = torch.isin(tokens, ends).tolist()
        for row, (request, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if request in finished:
                continue
            if not ended[row]:
                written[request].append(token)
            if ended[row] or step + 1 == room[request]:
                finished.add(request)
                made = requests[request]
                yield Output(made.id, made.sample, written[request], not ended[row])
                ended[row] = True
        if len(finished) == len(requests):
            break
        if droppable and any(ended):
            rows, order = _drop_rows(cache, rows, ended)
            tokens, padding = tokens[order], padding[order]
        ids = tokens[:, None]
        positions = (length - padding)[:, None]


def _drop_rows(cache, rows: list[int], ended: list[bool]) -> tuple[list[int], list[int]]:
    """Fill the places of ended rows with the last live ones. Returns the new rows, and which old row each was."""
    alive = len(rows) - sum(ended)
    target = [i for i in range(alive) if ended[i]]
    source = [i for i in range(alive, len(rows)) if not ended[i]]
    order = list(range(alive))
    for a, b in zip(source, target, strict=True):
        order[b] = a
    for layer in cache.layers:
        layer.move_rows(source, target, alive)
    return [rows[i] for i in order], order


def _generator(seed: int, request: Request) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{request.id}\0{request.sample}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sample_tokens(logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """
    Draw a token per row by inverting the cumulative distribution.

    Args:
        logits (`torch.Tensor`):
            Shape (rows, vocabulary).
        uniform (`torch.Tensor`):
            A number in [0, 1) for each row, float64, shape (rows,).
        temperature (`float`):
            Positive.
        top_p (`float`):
            See [`DecodingConfig`].

    Returns:
        `torch.Tensor`: Token IDs, shape (rows,).
    """
    probabilities = (logits.double() / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # A token stays if those before it do not hold the share yet
        outside = ordered.cumsum(dim=-1) - ordered >= top_p
        probabilities = probabilities.masked_fill(outside.gather(-1, order.argsort(dim=-1)), 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    # The product can round up to the total: stay in front of where it is reached
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())[:, 0]
    return torch.minimum(drawn, last)
