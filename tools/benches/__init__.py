"""The benchmarks of `tools/bench.py`: training, evaluation, mining, kernels and scaling, beside what others offer."""
