"""This process and the others of its run."""

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """This process among those that a launcher started, if any: its device, its rank, how many there are."""
    # Without being told so, accelerate takes processes on CPU for one
    return PartialState(cpu=not torch.accelerator.is_available())
