"""Too little memory, told apart from a file that is broken and from mistakes in the program."""

import torch


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that the memory of the machine or of a device did not suffice."""
    # of the machine's, PyTorch raises no more than a RuntimeError with this word
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
