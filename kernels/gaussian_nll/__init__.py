from .op import gaussian_nll
from .reference import nll_of, optimal_log_gamma

__all__ = ["gaussian_nll", "nll_of", "optimal_log_gamma"]
