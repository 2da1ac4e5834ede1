"""The TPU kernels, compiled without a TPU."""
