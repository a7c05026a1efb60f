"""Benchmarks of the outer layer: how long update rules take to an accuracy on unequal workers."""
