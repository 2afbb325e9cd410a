"""Table 7: where log γ starts, and what becomes of the active dimensions.

Beside the paper's three models there is a VAE whose γ is the optimum of each batch: it has no start. Each model that
has one is trained twice, by the recipe for a γ that may start anywhere and by Adam as it is, as the paper's are: see
:mod:`.recipe`. The paper's numbers stand beside both.
"""

from functools import partial

from ..data import conditional_manifold, synthetic_manifold
from ..ensemble import ModelSpec
from ..training import TrainingConfig
from . import paper, recipe
from .tables import Cell, Plan, Table

__all__ = ["TABLE"]

AMBIENT_DIM = LATENT_DIM = 20
MANIFOLD_DIM, CONDITION_DIM = 10, 5
STARTS = tuple(row["init_log_gamma"] for row in paper.rows("table7"))
# What marks their columns in the paper, and their names.
VARIANTS = (
    ("vae_{}", "VAE"),
    ("cvae_fixed_prior_{}", "CVAE, fixed prior"),
    ("cvae_learned_prior_{}", "CVAE, learned prior"),
)
ANALYTIC = "VAE, analytic γ"
ADAM_AS_IS = ", Adam as it is"


def _cell(start: int, variant: str, plan: Plan) -> Cell:
    columns = {"init_log_gamma": start}
    training = TrainingConfig() if plan.published or variant.endswith(ADAM_AS_IS) else recipe.ANY_GAMMA
    model = partial(ModelSpec, LATENT_DIM, recipe.hidden("manifold", plan), log_gamma=start, training=training)
    if variant.startswith("VAE"):
        spec = model(gamma="analytic" if variant == ANALYTIC else "learned")
        data = partial(synthetic_manifold, ambient_dim=AMBIENT_DIM, manifold_dim=MANIFOLD_DIM)
        return Cell(columns, spec, data, (MANIFOLD_DIM,), variant)
    spec = model(condition_dim=CONDITION_DIM, prior="learned" if "learned prior" in variant else "standard")
    conditional = recipe.under_condition(
        conditional_manifold, plan, ambient_dim=AMBIENT_DIM, manifold_dim=MANIFOLD_DIM, condition_dim=CONDITION_DIM
    )
    return Cell(columns, spec, conditional, (MANIFOLD_DIM - CONDITION_DIM,), variant)


def _cells(plan: Plan) -> list[Cell]:
    """As published, Adam is as it is, and nothing is trained a second way."""
    ways = ("",) if plan.published else ("", ADAM_AS_IS)
    cells = [_cell(start, variant + way, plan) for way in ways for _, variant in VARIANTS for start in STARTS]
    return [*cells, _cell(0, ANALYTIC, plan)]


TABLE = Table(
    "table7",
    paper.title("table7"),
    _cells,
    paper.printed(
        "table7", ("init_log_gamma",), [(mark, name + way) for way in ("", ADAM_AS_IS) for mark, name in VARIANTS]
    ),
    recipe.half_batches,
)
