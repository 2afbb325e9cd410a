"""Sequential CVAEs in an ensemble: what their specification refuses and makes, and which backend trains them."""

from pathlib import Path

import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble import explain_ensemble

D, T = 3, 4
CONFIG = mc.TrainingConfig(steps=6, batch_size=16, learning_rate=0.01, seed=5)
SPECS = [
    *(
        mc.SequentialSpec(2, every_step=every, hidden=4, share_weights=shared, decoder_hidden=wide, training=CONFIG)
        for every, shared, wide in ((False, False, ()), (False, True, (6,)), (True, False, (6,)), (True, True, ()))
    ),
    mc.SequentialSpec(2, hidden=4, covariance="cholesky", training=CONFIG),
]


def windows() -> tuple[Tensor, Tensor]:
    steps = torch.randn(50, T + 1, D, generator=torch.Generator().manual_seed(0))
    return steps[:, T].clone(), steps[:, :T].clone()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a positive integer, got 0"),
        ({"hidden": (4,)}, "hidden must be a positive integer, got (4,)"),
        ({"decoder_hidden": (4, 0)}, "decoder_hidden[1] must be a positive integer, got 0"),
        ({"decoder_hidden": 4}, "decoder_hidden must be a sequence of positive integers, such as (64,), got 4"),
        ({"gamma": "free"}, "gamma must be 'learned', 'analytic' or 'fixed', got 'free'"),
        ({"log_gamma": float("nan")}, "log_gamma must be a finite number, got nan"),
        ({"covariance": "full"}, "covariance must be 'diagonal' or 'cholesky', got 'full'"),
        (
            {"covariance": "cholesky", "share_weights": True},
            "covariance must be 'diagonal' if encoder and prior are one network, got 'cholesky'",
        ),
    ],
)
def test_bad_specifications_name_the_argument_and_its_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.SequentialSpec(**({"latent_dim": 3} | arguments))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("spec", SPECS)
def test_the_model_is_the_one_that_is_asked_for(spec: mc.SequentialSpec) -> None:
    torch.set_default_dtype(torch.float64)
    state = torch.get_rng_state()
    try:
        found = spec.build(D)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    expected = (mc.EveryStepCVAE if spec.every_step else mc.SequentialCVAE).lstm(
        *(D, 2, 4),
        share_weights=spec.share_weights,
        decoder_hidden=spec.decoder_hidden,
        covariance=spec.covariance,
    )
    assert type(found) is type(expected)
    assert (found.prior is found.encoder.network) == spec.share_weights
    assert list(found.state_dict()) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert found.state_dict()[name].dtype == torch.float32
        assert torch.equal(found.state_dict()[name], tensor), name
    assert hash(mc.SequentialSpec(2, decoder_hidden=[6]))  # type: ignore[arg-type]


def test_the_ensemble_is_one_model_after_the_other() -> None:
    x, c = windows()
    for spec, found in zip(SPECS, mc.train_ensemble(SPECS, (x, c), progress=False), strict=True):
        model = spec.build(D)
        history = mc.train(model, x, CONFIG, condition=c, progress=False)
        assert found.spec is spec
        assert found.history.neg_elbo == history.neg_elbo
        assert found.metrics == mc.evaluate(model, x, c)


def test_a_stopped_ensemble_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, c = windows()
    expected = [trained.metrics for trained in mc.train_ensemble(SPECS, (x, c), progress=False)]
    forward = mc.EveryStepCVAE.forward

    def stop(self: mc.EveryStepCVAE, *inputs: Tensor, seed: int, first_row: int = 0) -> mc.ELBOTerms:
        if seed % 2**32 == 3:
            raise KeyboardInterrupt
        return forward(self, *inputs, seed=seed, first_row=first_row)

    with monkeypatch.context() as patch:
        patch.setattr(mc.EveryStepCVAE, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            mc.train_ensemble(SPECS, (x, c), folder=tmp_path, checkpoint_seconds=0, progress=False)
    found = mc.train_ensemble(SPECS, (x, c), folder=tmp_path, progress=False)
    assert [trained.metrics for trained in found] == expected
    with pytest.raises(mc.InputError, match=r"checkpoint is of another run: its specs\[0\]"):
        mc.train_ensemble(SPECS[::-1], (x, c), folder=tmp_path, progress=False)


@NEEDS_COMPILED
def test_auto_takes_the_reference_and_says_why() -> None:
    x = windows()[0]
    plain = mc.ModelSpec(2)
    assert explain_ensemble([plain], x).backend == "cpu"
    choice = explain_ensemble([plain, *SPECS], x)
    assert choice.backend == "reference"
    assert choice.reason == "specs[1] is a SequentialSpec, which only 'reference' trains"
    assert explain_ensemble(SPECS, x, backend="reference").reason == "asked for by name"


@NEEDS_COMPILED
def test_an_engine_that_is_named_refuses() -> None:
    x, c = windows()
    plain = mc.ModelSpec(2, data=1)
    with pytest.raises(
        RuntimeError, match=r"backend 'cpu' cannot serve this ensemble: specs\[1\] is a SequentialSpec, "
    ):
        mc.train_ensemble([plain, SPECS[0]], [(x, c), x], backend="cpu", progress=False)
