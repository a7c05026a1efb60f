"""Convolutions with fewer multiplications: Winograd's minimal filtering.

What a tile of outputs sees of a map, and the filter, are brought to points at which a convolution is a plain product.
``forms`` holds the transformations; ``tiling`` and ``weight_tiling`` say where they are worth it; these are pure.
``strip``, ``transform`` and ``products`` are what the convolution and the gradient of its data have in common, ``ways``
says which of them is made so. ``points`` and ``weight_gradient`` make the gradients of weights.
"""
