"""tailrace in a world of one thread: virtual time, a simulated network and server, faults by seed.

Producers, workers, readers, redis-py and the Lua scripts run as they are. Simulated is what surrounds them: the event
loop (`loop`), the network (`network`), the server (`server`, `commands`, `scripting`), the upstream (`upstream`) and
the clocks and random numbers (`shims`). `world` plays one seed; `checks` says what must hold.

`python -m tests.simulation 1000000 --from 5` runs a million seeds.
"""
