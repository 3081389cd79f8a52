"""The native kernels, as torch ops."""
