"""``manifold-core bench``: how fast this library is on this machine, beside what else there is.

One module per comparison; :mod:`.suite` runs them, :mod:`.table` and :mod:`.roofline` show what was found.
"""
