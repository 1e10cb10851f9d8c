"""The ops as Triton kernels for CUDA; importable where Triton is, and on a CPU in its interpreter only."""
