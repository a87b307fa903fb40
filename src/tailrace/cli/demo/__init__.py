"""`tailrace demo`: one job, three readers, everything that a stranger should see in a minute.

`command` reads the options, `stage` runs worker, job and readers, `readers` are the three, `screen` shows them side by
side, `report` folds what happened into a tree and figures.
"""

__all__: list[str] = []
