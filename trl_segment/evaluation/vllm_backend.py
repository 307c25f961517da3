"""
Decoding with vLLM. It needs a GPU that vLLM supports; this path is not covered by the tests.
"""

from collections.abc import Iterator, Sequence

from transformers.utils.peft_utils import find_adapter_config_file

from .generation import DecodingConfig, Output, Request


class VLLMDecoder:
    """
    Decodes requests with vLLM, which does its own batching.

    Args:
        name_or_path (`str`):
            Hub name or folder of a model.
        config ([`DecodingConfig`]):
            How to decode. A sample's seed is made of the config's and its number.
        batch_size (`int`):
            Requests handed over at a time.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Raises:
        `ImportError`: If vLLM is not installed.
        `ValueError`: If it is an adapter.
    """

    def __init__(
        self,
        name_or_path: str,
        config: DecodingConfig,
        batch_size: int,
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ):
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError(
                "`backend='vllm'` needs vLLM, which is not installed. Install it (pip install vllm), or pass "
                "`backend='transformers'`."
            ) from error
        if find_adapter_config_file(name_or_path) is not None:
            raise ValueError(
                f"{name_or_path!r} is an adapter, and outputs of adapters are made with transformers. Merge it and "
                "pass the merged model, or pass `backend='transformers'`."
            )
        self.config = config
        self.batch_size = batch_size
        self.engine = LLM(model=name_or_path, dtype=dtype, trust_remote_code=trust_remote_code)

    def __call__(self, requests: Sequence[Request]) -> Iterator[Output]:
        """Decode requests, so many at a time that little is lost when the run is killed."""
        from vllm import SamplingParams

        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            parameters = [
                SamplingParams(
                    max_tokens=self.config.max_new_tokens,
                    temperature=self.config.temperature,
                    top_p=self.config.top_p,
                    seed=self.config.seed * 1_000_003 + request.sample,
                )
                for request in batch
            ]
            prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in batch]
            for request, made in zip(batch, self.engine.generate(prompts, parameters), strict=True):
                completion = made.outputs[0]
                cut_off = completion.finish_reason == "length"
                # vLLM returns the end token with the others
                written = list(completion.token_ids) if cut_off else list(completion.token_ids)[:-1]
                yield Output(request.id, request.sample, written, cut_off)
