"""What people see of a cluster: `flash status`, `explain` and `doctor`.

`look` reads, everything else decides or draws from what it brought. Nothing here writes to a cluster.
"""
