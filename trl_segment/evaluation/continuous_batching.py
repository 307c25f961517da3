"""
Decoding with the continuous batching of transformers: paged memory, CUDA graphs, a new output where one has ended.

On a GPU with FlashAttention this is meant to be the fast way without vLLM. Without FlashAttention every token is
compared with those of all other outputs and nothing is captured in a graph, and the decoder of this package is faster,
as it is on CPU (`benchmarks/decoding.py --compare`).
"""

from collections.abc import Iterator, Sequence

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from .generation import DecodingConfig, Output, Request, most_positions, split_by_room


# Tokens of a page, and what one pass takes on CPU, where nobody says how much memory there is to fill
_CPU_PAGE, _CPU_PASS = 32, 256


def has_paged_attention() -> bool:
    """
    Whether continuous batching can read each output's own pages, which takes FlashAttention on a GPU.

    Returns:
        `bool`: As transformers itself decides, so also where it would fetch the kernels.
    """
    available = (is_flash_attn_3_available, is_flash_attn_2_available)
    return any(check(kernels_fallback_ok=True) for check in available)


class ContinuousDecoder:
    """
    Decodes requests with transformers' continuous batching. Greedy outputs are those of
    [`~trl_segment.evaluation.generation.generate_outputs`]. Samples come from one generator for all outputs, so other
    company gives other samples.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model with attention in all layers. Left as it was found.
        end_ids (`set[int]`):
            Tokens that end an output, see [`~trl_segment.evaluation.generation.end_token_ids`].
        config ([`~trl_segment.evaluation.generation.DecodingConfig`]):
            How to decode.
        batch_size (`int`, *optional*):
            Most outputs made at a time. Defaults to as many as the memory holds; on CPU 64.

    Raises:
        `RuntimeError`: From a call, if generation fails.
    """

    def __init__(
        self, model: PreTrainedModel, end_ids: set[int], config: DecodingConfig, batch_size: int | None = None
    ):
        self.model, self.end_ids, self.config, self.batch_size = model, end_ids, config, batch_size

    def __call__(self, requests: Sequence[Request]) -> Iterator[Output]:
        """Decode requests; outputs come as they end."""
        waiting, full = split_by_room(self.model.config, requests)
        yield from full
        if not waiting:
            return
        most = most_positions(self.model.config)
        names = {str(index): request for index, request in enumerate(waiting)}
        training = self.model.training
        try:
            yield from self._decode(names, most)
        finally:
            self.model.train(training)

    def _decode(self, names: dict[str, Request], most: float) -> Iterator[Output]:
        # Its thread stops when the manager's block is left, also where a caller stops asking for outputs
        with self.model.continuous_batching_context_manager(
            generation_config=self._generation_config(),
            continuous_batching_config=self._batching_config(list(names.values())),
            warmup=self.model.device.type != "cpu",
        ) as manager:
            for name, request in names.items():
                room = int(min(self.config.max_new_tokens, most - len(request.prompt_ids)))
                manager.add_request(list(request.prompt_ids), request_id=name, max_new_tokens=room)
            unfinished = set(names)
            while unfinished:
                result = manager.get_result(timeout=1)
                if result is None:
                    if not manager.is_running():
                        raise RuntimeError(
                            f"The continuous batching of transformers ended with {len(unfinished):,} of "
                            f"{len(names):,} outputs missing. What is made is kept: start again, or pass "
                            "`backend='transformers'`."
                        )
                    continue
                if not result.is_finished():
                    continue
                request = names[result.request_id]
                if result.error is not None:
                    raise RuntimeError(
                        f"The continuous batching of transformers failed on {request.id!r}: {result.error} Pass "
                        "`backend='transformers'`."
                    )
                unfinished.remove(result.request_id)
                written = list(result.generated_tokens)
                ended = bool(written) and written[-1] in self.end_ids
                yield Output(request.id, request.sample, written[:-1] if ended else written, not ended)

    def _generation_config(self) -> GenerationConfig:
        sampling = {}
        if self.config.temperature > 0:
            sampling = {"temperature": self.config.temperature, "top_p": self.config.top_p, "top_k": 0}
        ends = sorted(self.end_ids)
        return GenerationConfig(
            max_new_tokens=self.config.max_new_tokens,
            do_sample=self.config.temperature > 0,
            eos_token_id=ends,
            pad_token_id=ends[0],
            **sampling,
        )

    def _batching_config(self, requests: Sequence[Request]) -> ContinuousBatchingConfig:
        options = {}
        if self.model.device.type == "cpu":
            at_once = min(self.batch_size or 64, len(requests))
            longest = max(len(request.prompt_ids) for request in requests) + self.config.max_new_tokens
            longest = min(longest, most_positions(self.model.config))
            pages = -(-int(longest) // _CPU_PAGE)
            options = {"page_size": _CPU_PAGE, "num_blocks": pages * at_once, "max_batch_tokens": _CPU_PASS}
        return ContinuousBatchingConfig(max_requests_per_batch=self.batch_size, seed=self.config.seed, **options)
