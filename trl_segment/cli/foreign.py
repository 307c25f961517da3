"""Lines of other libraries that a person who runs a command can do nothing about."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator


# The start of each, by its logger. Everything else that these loggers say stays.
_IDLE = {
    # On CPUs with AVX-512 only, at import: a kernel for 4-bit weights, on which nothing here depends
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward from kernels-community",),
    # At import on a machine without a GPU, wherever DeepSpeed is installed, also by runs that do not use it. Where
    # there is a GPU that cannot be used, torch itself warns
    "DeepSpeed": ("Setting accelerator to CPU.", "Setting ds_accelerator to "),
}
# The start of a warning, where the library that is warned is not ours: PEFT 0.21 asks transformers under an old name
_DEPRECATED = ("`is_gradient_checkpointing` is deprecated",)


class _Without(logging.Filter):
    def __init__(self, starts):
        super().__init__()
        self.starts = starts

    def filter(self, record):
        return not record.getMessage().startswith(self.starts)


@contextlib.contextmanager
def without_idle_lines() -> Iterator[None]:
    """
    Do not show such lines while the context lasts. A line is known by its logger and its first words, a warning by its
    kind and its first words.
    """
    filters = []
    for name, starts in _IDLE.items():
        filters.append((logging.getLogger(name), _Without(starts)))
        filters[-1][0].addFilter(filters[-1][1])
    try:
        with warnings.catch_warnings():
            for start in _DEPRECATED:
                warnings.filterwarnings("ignore", re.escape(start), FutureWarning)
            yield
    finally:
        for logger, left_out in filters:
            logger.removeFilter(left_out)
