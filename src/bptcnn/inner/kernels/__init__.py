"""Machine code, written for the shapes of the network at hand."""
