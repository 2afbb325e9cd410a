"""Measurements that stay in the repository: asv, GPUs, results. Run from its root. Comparisons on a CPU, which users
can run too, are in ``manifold_core.bench``."""
