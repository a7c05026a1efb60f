"""Products of whole matrices (Intel's AMX), by blocks whose samples fill them, and by narrow ones.

Of each of the two kinds of blocks there is a convolution (forward, and backward to the data) and a gradient of weights;
what both have in common is in ``sums`` and ``gradient``. ``ways`` says which makes what; ``tiling`` and ``lines`` say
how, and are pure.
"""
