"""Full float32 products, whatever the surroundings ask for."""

import threading
from contextlib import contextmanager

import torch

_precision_lock = threading.RLock()


@contextmanager
def full_precision(device):
    """No autocast and no TF32 inside: both would cost the histograms their digits."""
    matmul = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul
    with torch.autocast(device.type, enabled=False), _precision_lock:
        before = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before
