"""The machine under a worker: its cores, vectors and caches, its memory, and other users of its cores."""
