"""``manifold-core bench``: what this library would give on this machine, beside what else there is.

A module a comparison; :mod:`.suite` runs them, :mod:`.table` and :mod:`.roofline` show what was found.
"""
