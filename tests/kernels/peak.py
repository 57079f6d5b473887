"""Prints the MiB above what was held before, at the peak: of the histograms, and of one whole matrix.  Linux."""

import torch

from helpers import block_histograms, pearson_correlation
from tools.benchmarks.report import above

x = torch.randn(54, 2304, generator=torch.Generator().manual_seed(0), requires_grad=True)
block_histograms(x[:, :300].clone(), (100, 100, 100))  # code and threads are there
pearson_correlation(x[:, :300])
print(above(block_histograms, x, (768, 768, 768)), above(pearson_correlation, x))
