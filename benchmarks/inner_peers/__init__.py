"""What ``benchmarks/inner.py`` compares: one contender a child process, the same network and arithmetic in each."""
