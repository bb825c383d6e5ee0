"""What tests of networks share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: for a few neurons a second one costs more than it brings.

    On a busy machine the two wait for each other, and a gradient step takes 25 ms instead of 3.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
