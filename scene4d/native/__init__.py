"""The native kernels as torch operators."""
