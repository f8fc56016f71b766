"""Speed of mg_jax against PyTorch on one CPU; `launch/bench.py` is the command.

`suites` defines the shapes, `ours` and `peers` build them in jax and in torch, `worker` times them
in its own process, `driver` alternates between the processes, `report` prints.
"""
