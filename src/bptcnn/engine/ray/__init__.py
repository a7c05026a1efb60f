"""The Ray engine: real processes on real machines."""

from bptcnn.engine.ray.driver import RayEngine

__all__ = ["RayEngine"]
"""The public names of the Ray engine."""
