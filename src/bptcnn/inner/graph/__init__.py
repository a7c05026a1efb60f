"""A network as layers: what is to be computed."""
