"""Weight vectors as they travel: float32 as it is, or in fewer bytes, down to two bits a weight."""

from bptcnn.wire.codes import BLOCK, CHUNK
from bptcnn.wire.packed import Dtype, Packed, Sizes, Wire, decode, encode, num_bytes

__all__ = ["BLOCK", "CHUNK", "Dtype", "Packed", "Sizes", "Wire", "decode", "encode", "num_bytes"]
