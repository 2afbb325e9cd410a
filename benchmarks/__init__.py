"""Measurements. Run from the repository root, for example ``python -m benchmarks.elbo_against_eager``."""
