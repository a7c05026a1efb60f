"""OUTER LAYER: many workers. Who trains which samples, and how their weights become one network. Pure."""
