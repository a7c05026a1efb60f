"""Which rule and allocation would suit machines like yours? Asked on a virtual clock, so it needs none of them.

    python examples/compare_rules.py

Give your own speeds and link, and `model=` and `data=` as in train().
"""

import itertools
import tempfile

import bptcnn

SPEEDS = (900, 300, 100)  # samples per second of each machine
LINK = "100Mbit,5ms"

print(f"{'rule':6} {'allocation':10} {'accuracy':>9} {'seconds':>9} {'waiting':>9}")
for rule, allocation in itertools.product(("agwu", "sgwu"), ("uniform", "idpa", "dynamic")):
    config = bptcnn.RunConfig(
        epochs=4, strategy=rule, allocation=allocation, workers={"count": len(SPEEDS), "speeds": SPEEDS}
    )
    with tempfile.TemporaryDirectory() as folder:
        summary = bptcnn.simulate(config, out=f"{folder}/run", link=LINK).summary
    waiting = sum(summary["waiting_fraction"]) / len(SPEEDS)
    accuracy, seconds = summary["test_accuracy"], summary["train_seconds"]
    print(f"{rule:6} {allocation:10} {accuracy:9.3f} {seconds:9.1f} {waiting:9.1%}")
