"""Fused ELBO for Gaussian VAEs, and the dimension of a data manifold read off the trained model."""

__version__ = "0.1.0"

from importlib.util import find_spec as _find_spec

# In a checkout the kernels lie beside this folder, and only an installation joins them. If Python looks into the
# checkout first, this folder hides an installation that is not editable.
if _find_spec(f"{__name__}.kernels") is None:
    raise ImportError(
        f"manifold_core was imported from the checkout {__path__[0]}, which has no kernels inside; "
        "run Python from another folder, or install the checkout with 'pip install -e .'"
    )

from . import data as data
from . import ensemble as ensemble
from . import kernels as kernels
from . import networks as networks
from .data import Standardisation
from .ensemble import ConvSpec, ModelSpec, SequentialSpec, TrainedModel, train_ensemble
from .errors import InputError
from .kernels import gaussian_nll, rsample_kl, rsample_kl_cholesky
from .metrics.active import ActiveDimensions, active_dimensions
from .metrics.evaluation import Metrics, evaluate
from .metrics.local import LocalDimensions, local_dimensions
from .metrics.neighbours import two_nn
from .models import CVAE, VAE
from .models.elbo import ELBOTerms, GaussianELBO
from .models.sequential import EveryStepCVAE, SequentialCVAE
from .models.standard_prior import with_standard_prior
from .run import FinishedRun, load_run, save_run
from .search import DimensionSearch, SearchPlan, Trial, find_dimension
from .training import Diverged, History, TrainingConfig, load_weights, train

__all__ = [
    "CVAE",
    "VAE",
    "ActiveDimensions",
    "ConvSpec",
    "DimensionSearch",
    "Diverged",
    "ELBOTerms",
    "EveryStepCVAE",
    "FinishedRun",
    "GaussianELBO",
    "History",
    "InputError",
    "LocalDimensions",
    "Metrics",
    "ModelSpec",
    "SearchPlan",
    "SequentialCVAE",
    "SequentialSpec",
    "Standardisation",
    "TrainedModel",
    "TrainingConfig",
    "Trial",
    "active_dimensions",
    "evaluate",
    "find_dimension",
    "gaussian_nll",
    "load_run",
    "load_weights",
    "local_dimensions",
    "rsample_kl",
    "rsample_kl_cholesky",
    "save_run",
    "train",
    "train_ensemble",
    "two_nn",
    "with_standard_prior",
]

# Submodules that users import from.
_MODULES = ("data", "ensemble", "experiments", "kernels", "networks")


def __dir__() -> list[str]:
    """What tab completion offers: no internal modules, and ``experiments`` once it is imported."""
    loaded = globals()
    special = [name for name in loaded if name.startswith("__")]
    return sorted({*__all__, *special, *(name for name in _MODULES if name in loaded)})
