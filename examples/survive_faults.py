"""A worker dies, another freezes, the server crashes: what becomes of the samples?

    python examples/survive_faults.py

The same happens on Ray when you kill processes for real; here it takes moments and repeats exactly.
"""

import tempfile

import bptcnn

config = bptcnn.RunConfig(epochs=20, checkpoint={"every_s": 5}, workers={"count": 3, "speeds": (900, 300, 100)})
with tempfile.TemporaryDirectory() as folder:
    run = bptcnn.simulate(
        config, out=f"{folder}/run", faults="kill:1@3,crash@6,freeze:2@9+60,join:500@12", timing_only=True
    )

for notice in run.notices:
    print(notice)
print(run.summary["samples"])
assert run.summary["samples"]["lost"] == run.summary["samples"]["duplicated"] == 0
