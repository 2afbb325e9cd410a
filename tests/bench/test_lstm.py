"""Both ways of an LSTM compute the same."""

import pytest
from manifold_core.kernels.lstm import reference
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from manifold_core.bench import lstm


def test_ours_are_right() -> None:
    assert lstm.error(5, 3, 4, 6) <= lstm.COMPARISON.allowed


@pytest.mark.parametrize("way", ["ours", "by_pytorch"])
def test_a_wrong_output_is_seen(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(lstm, way)
    monkeypatch.setattr(lstm, way, lambda p: right(p) + 1e-3 * p["bias_hh_l0"].sum())
    assert lstm.error(5, 3, 4, 6) > lstm.COMPARISON.allowed


@pytest.mark.parametrize("name", lstm.COMPARISON.contenders)
def test_a_call_has_the_gradients_of_all_weights(name: str) -> None:
    found = lstm.COMPARISON.contenders[name](5, 3, 4, 6).run()
    assert isinstance(found, tuple)
    assert [tuple(g.shape) for g in found] == [(24, 4), (24, 6), (24,), (24,)]


def test_operations_are_those_of_the_products() -> None:
    """But for the first state, which is zero: no gradient goes back to it."""

    def formula(p: dict[str, Tensor]) -> Tensor:
        return reference.lstm(p["x"], *(p[name] for name in lstm.WEIGHTS))

    with FlopCounterMode(display=False) as counter:
        lstm.gradients(formula, lstm.problem(5, 3, 4, 6))
    assert lstm.operations(5, 3, 4, 6) == counter.get_total_flops() + 2 * 5 * 24 * 6
