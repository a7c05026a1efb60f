"""Convolutions with fewer multiplications: Winograd's minimal filtering.

What a tile of outputs sees of a map, and the filter, are brought to points at which a convolution is a plain product.
``forms`` holds the transformations and ``tiling`` says where they are worth it, both are pure; ``transform`` and
``products`` are what the convolution and its gradient have in common; ``ways`` says which of them is made so.
"""
