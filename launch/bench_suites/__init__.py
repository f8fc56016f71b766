"""Speed of mg_jax beside PyTorch on one CPU; `launch/bench.py` is the command.

`suites` says what is measured, `ours` and `peers` build it in jax and in torch, `worker` times it
in a process of its own, `driver` alternates between the processes, `report` prints.
"""
