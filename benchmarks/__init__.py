"""Measurements that stay in the repository: asv, GPUs, results. Run from its root. Comparisons on a CPU, which users
have too, are in ``manifold_core.bench``."""
