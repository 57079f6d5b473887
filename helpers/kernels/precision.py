"""Full float32 products, whatever the surroundings ask for, and torch on one core where that is quicker."""

import threading
from contextlib import contextmanager

import torch

_precision_lock = threading.RLock()


@contextmanager
def full_precision(device):
    """No autocast and no TF32 inside: both would cost the histograms their digits.  One caller at a time."""
    matmul = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul
    with torch.autocast(device.type, enabled=False), _precision_lock:
        before = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before


@contextmanager
def one_thread(device, unless=False):
    """Torch's operations on one core inside, if `device` is the CPU and `unless` is false.

    Each operation on two cores waits until the slower one is done.  Where other programs keep the cores busy,
    that is a thousandth of a second and more each time, however small the operation.  The number of threads
    belongs to the calling thread; only a thread that first uses torch meanwhile starts with one as well.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and not unless:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
