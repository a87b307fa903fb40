"""The benchmarks: tailrace beside what it is compared with, in one run on one machine.

`python -m benchmarks` (or `./run bench`) measures every row; a row is a module of `benchmarks.rows`. Each row runs both
sides in turns, in several rounds, because the machine is noisy: the ratios and medians are what to look at. Each side's
server is a process of its own, and so is the upstream. Times across processes are taken from the system-wide monotonic
clock.
"""
