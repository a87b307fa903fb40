"""`tailrace demo`: one job, three readers, everything that a stranger should see in a minute.

`command` reads the options, `stage` runs worker, job and readers, `readers` are the three, `screen` shows them side by
side, `report` folds what happened into a tree and figures, `aftermath` prints them. With `--chaos`, `chaos` is the stage,
`workers` are processes that may be killed, `blows` says what was done and whether every promise was kept.
"""

__all__: list[str] = []
