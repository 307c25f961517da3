"""Decoding with vLLM, the fast way on a GPU. `make test-vllm` runs its tests in an environment that has it."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from .generation import DecodingConfig, Output, Request, end_token_ids, most_positions, split_by_room


class VLLMDecoder:
    """
    Decodes requests with vLLM, which does its own batching. Outputs come as they end.

    Args:
        name_or_path (`str`):
            Hub name or folder of a model, or of an adapter, which is merged into its base model in a temporary folder.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer; its end token ends outputs beside those of the generation config.
        config ([`~trl_segment.evaluation.generation.DecodingConfig`]):
            How to decode. A sample's seed is made of the config's and its number.
        batch_size (`int`, *optional*):
            Most outputs made at a time. Defaults to vLLM's choice.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.

    Raises:
        `ImportError`: If vLLM is not installed.
    """

    def __init__(
        self,
        name_or_path: str,
        tokenizer: PreTrainedTokenizerBase,
        config: DecodingConfig,
        batch_size: int | None = None,
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
        self.config = config
        with contextlib.ExitStack() as stack:
            if find_adapter_config_file(name_or_path) is not None:
                name_or_path = _merged(
                    name_or_path, stack.enter_context(tempfile.TemporaryDirectory()), dtype, trust_remote_code
                )
            self.model_config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
            try:
                generation_config = GenerationConfig.from_pretrained(name_or_path)
            except OSError:  # a folder need not have one
                generation_config = None
            self.end_ids = end_token_ids(generation_config, tokenizer)
            at_once = {} if batch_size is None else {"max_num_seqs": batch_size}
            # Only end tokens, as everywhere here: no temperature or penalty that a generation config asks for
            self.engine = LLM(
                model=name_or_path,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                generation_config="vllm",
                **at_once,
            ).llm_engine

    def __call__(self, requests: Sequence[Request]) -> Iterator[Output]:
        """Decode requests; outputs come as they end."""
        from vllm import SamplingParams

        waiting, full = split_by_room(self.model_config, requests)
        yield from full
        most = most_positions(self.model_config)
        names = {str(index): request for index, request in enumerate(waiting)}
        for name, request in names.items():
            parameters = SamplingParams(
                max_tokens=int(min(self.config.max_new_tokens, most - len(request.prompt_ids))),
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                seed=self.config.seed * 1_000_003 + request.sample,
                stop_token_ids=sorted(self.end_ids),
                detokenize=False,
            )
            self.engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, parameters)
        try:
            while self.engine.has_unfinished_requests():
                for made in self.engine.step():
                    if made.finished:
                        request = names.pop(made.request_id)
                        written = list(made.outputs[0].token_ids)
                        ended = bool(written) and written[-1] in self.end_ids
                        yield Output(request.id, request.sample, written[:-1] if ended else written, not ended)
        finally:
            # Where the caller stops to ask for more
            if names:
                self.engine.abort_request(list(names))


def _merged(name_or_path: str, folder: str, dtype: str, trust_remote_code: bool) -> str:
    from ..models import load_model

    model, tokenizer = load_model(name_or_path, dtype=dtype, trust_remote_code=trust_remote_code, merge_adapter=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
