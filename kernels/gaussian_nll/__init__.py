from .op import gaussian_nll
from .reference import optimal_log_gamma

__all__ = ["gaussian_nll", "optimal_log_gamma"]
