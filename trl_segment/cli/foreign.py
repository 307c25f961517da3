"""Lines of other libraries that a person who runs a command can do nothing about."""

import logging


# The start of each, by its logger. Everything else that these loggers say stays.
_IDLE = {
    # On CPUs with AVX-512 only, at import: a kernel for 4-bit weights, on which nothing here depends
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward from kernels-community",),
    # At import on a machine without a GPU, wherever DeepSpeed is installed, also by runs that do not use it. Of a GPU
    # that is there but cannot be used torch itself warns
    "DeepSpeed": ("Setting accelerator to CPU.", "Setting ds_accelerator to "),
}


class _Without(logging.Filter):
    def __init__(self, starts):
        super().__init__()
        self.starts = starts

    def filter(self, record):
        return not record.getMessage().startswith(self.starts)


def leave_out_idle_lines() -> None:
    """Do not show such lines in this process. A line is known by its logger and its first words."""
    for name, starts in _IDLE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Without) for known in logger.filters):
            logger.addFilter(_Without(starts))
