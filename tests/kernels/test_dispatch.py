import importlib
import importlib.util
import re
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch
from dtypes import DTYPES
from manifold_core.kernels import Choice, conv_norm, explain, extension, gaussian_elbo
from manifold_core.kernels.convolution import choose_for_images
from manifold_core.kernels.dispatch import BACKENDS, choose
from recording import operators_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import manifold_core as mc
from manifold_core.networks import by_pytorch
from manifold_core.networks.conv_layers import ConvNorm

NO_MODULE = "the compiled module is not built; install a C++17 compiler"
NO_CUDA = "the CUDA kernels are not built"


@pytest.fixture
def without_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the compiled module had never been built."""
    monkeypatch.setattr("manifold_core.kernels.extension.compiled", None)
    monkeypatch.setattr("manifold_core.kernels.extension.missing_because", NO_MODULE)


def call_every_op(mu: Tensor, backend: str) -> list[Tensor]:
    z, kl = mc.rsample_kl(mu, mu, mu[:1], mu, gate_logits=mu, seed=1, backend=backend)
    y, kl_of_y = mc.rsample_kl_cholesky(mu[:, :2], mu[:, :3], seed=1, backend=backend)
    return [
        z,
        kl,
        y,
        kl_of_y,
        mc.gaussian_nll(z, mu, 0.0, backend=backend),
        *gaussian_elbo(z, mu, 0.0, kl, backend=backend),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_takes_the_compiled_kernels(compiled: object, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, dtype=dtype)
    choice = explain(x, x)
    assert choice == Choice("cpu", "compiled kernels for CPU tensors")
    assert choose("auto", x, x) == "cpu"
    assert explain(x, x.double()).backend == "cpu"
    assert explain(x, backend="cpu") == Choice("cpu", "asked for by name")
    assert "manifold_core" in str(torch.ops.manifold_core.rsample_kl)  # registered


@pytest.mark.parametrize("backend", ["auto", "reference", "cpu"])
def test_explain_takes_tensors(backend: str) -> None:
    with pytest.raises(TypeError, match=r"^explain takes tensors, or None for one that is left out, got 5$"):
        explain(torch.zeros(2), None, 5, backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(2, 3, device="meta"), "a tensor is on meta, not on the CPU"),
        (torch.zeros(2, 3).to(torch.float8_e4m3fn), "no kernel for torch.float8_e4m3fn"),
    ],
)
def test_auto_falls_back_for_a_reason_that_can_be_read(compiled: object, tensor: Tensor, reason: str) -> None:
    for tensors in ((tensor,), (tensor, torch.zeros(2, 3)), (torch.zeros(2, 3), tensor)):
        assert explain(*tensors) == Choice("reference", reason)
        assert choose("auto", *tensors) == "reference"
        with pytest.raises(RuntimeError, match=re.escape(f"backend 'cpu' cannot serve this call: {reason}")):
            explain(*tensors, backend="cpu")
        with pytest.raises(RuntimeError, match=re.escape(reason)):
            choose("cpu", *tensors)


def test_auto_falls_back_where_nothing_is_compiled(without_module: None) -> None:
    x = torch.zeros(2, 3)
    assert explain(x) == Choice("reference", NO_MODULE)
    assert choose("auto", x) == "reference"
    for a, b in zip(call_every_op(x, "auto"), call_every_op(x, "reference"), strict=True):
        assert torch.equal(a, b)


def test_a_named_backend_that_cannot_serve_raises(without_module: None) -> None:
    x = torch.zeros(2, 3)
    message = re.escape(f"backend 'cpu' cannot serve this call: {NO_MODULE}")
    with pytest.raises(RuntimeError, match=message):
        explain(x, backend="cpu")
    with pytest.raises(RuntimeError, match=message):
        mc.rsample_kl(x, x, seed=1, backend="cpu")
    with pytest.raises(RuntimeError, match=message):
        mc.gaussian_nll(x, x, 0.0, backend="cpu")
    with pytest.raises(RuntimeError, match=message):
        gaussian_elbo(x, x, 0.0, x[:, 0], backend="cpu")


def test_the_type_of_kl_alone_can_rule_a_backend_out(compiled: object) -> None:
    x, kl = torch.zeros(2, 3), torch.zeros(2).to(torch.float8_e4m3fn)
    with pytest.raises(RuntimeError, match=r"backend 'cpu' cannot serve this call: no kernel for torch\.float8_e4m3fn"):
        gaussian_elbo(x, x, 0.0, kl, backend="cpu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_can_always_be_had(dtype: torch.dtype) -> None:
    for device in ("cpu", "meta"):
        x = torch.zeros(2, 3, dtype=dtype, device=device)
        assert explain(x, backend="reference") == Choice("reference", "asked for by name")
        assert choose("reference", x) == "reference"
    wide = torch.promote_types(dtype, torch.float32)
    for name in ("auto", "reference"):
        found = call_every_op(x, name)
        assert [(t.shape, t.dtype, t.device.type) for t in found] == [
            ((2, 3), dtype, "meta"),
            ((2,), wide, "meta"),
            ((2, 2), dtype, "meta"),
            ((2,), wide, "meta"),
            ((2,), wide, "meta"),
            ((), wide, "meta"),
            ((2,), wide, "meta"),
            ((2,), wide, "meta"),
        ]


def test_the_named_backend_does_the_work(compiled: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this backend was not asked for")

    x = torch.zeros(2, 3)
    with monkeypatch.context() as patch:
        for op in ("rsample_kl", "rsample_kl_cholesky", "gaussian_nll", "gaussian_elbo"):
            patch.setattr(importlib.import_module(f"manifold_core.kernels.{op}.reference"), op, refuse)
        for name in ("cpu", "auto"):
            call_every_op(x, name)
        with pytest.raises(AssertionError, match="not asked for"):
            call_every_op(x, "reference")
    with monkeypatch.context() as patch:
        for op in ("rsample_kl", "rsample_kl_cholesky", "gaussian_nll", "gaussian_elbo"):
            module = importlib.import_module(f"manifold_core.kernels.{op}.op")
            patch.setattr(module.OPERATOR, "_plain", refuse)
            patch.setattr(type(module.OPERATOR), "__call__", refuse)
        call_every_op(x, "reference")
        with pytest.raises(AssertionError, match="not asked for"):
            call_every_op(x, "auto")


@pytest.mark.parametrize("dtype", DTYPES)
def test_triton_is_taken_by_name(dtype: torch.dtype) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("with a GPU at hand Triton does not run on the CPU")
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert explain(x, backend="triton") == Choice("triton", "asked for by name")
    found = call_every_op(x, "triton")
    for a, b in zip(found, call_every_op(x, "reference"), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(torch.equal(a, b) for a, b in zip(found[:2], call_every_op(x + 1, "reference"), strict=False))


def test_triton_refuses_cpu_tensors_outside_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        RuntimeError, match="backend 'triton' cannot serve this call: a tensor is on cpu, not on a CUDA"
    ):
        explain(torch.zeros(2, 3), backend="triton")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    """Set whether the CUDA kernels, and Triton, are there; on a GPU, without the interpreter."""

    def set_both(cuda: bool, triton: bool) -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: A100)
        monkeypatch.setattr("manifold_core.kernels.extension.cuda_missing_because", "" if cuda else NO_CUDA)
        monkeypatch.setattr("manifold_core.kernels.dispatch.TRITON_INSTALLED", triton)

    return set_both


A100, T4, V100 = (
    SimpleNamespace(name=n, major=a, minor=b) for n, a, b in (("A100", 8, 0), ("T4", 7, 5), ("V100", 7, 0))
)
NO_TRITON = "triton is not installed; pip install triton"
BY_CUDA = Choice("cuda", "compiled kernels for CUDA tensors")
BY_TRITON = Choice("triton", f"Triton's kernels for CUDA tensors: {NO_CUDA}")
BY_REFERENCE = Choice("reference", f"{NO_CUDA}; {NO_TRITON}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("cuda", "triton", "expected"),
    [(True, True, BY_CUDA), (True, False, BY_CUDA), (False, True, BY_TRITON), (False, False, BY_REFERENCE)],
)
def test_auto_takes_what_there_is_for_cuda_tensors(
    built: Callable[[bool, bool], None],
    dtype: torch.dtype,
    cuda: bool,
    triton: bool,
    expected: Choice,
) -> None:
    built(cuda, triton)
    with FakeTensorMode():
        x = torch.empty(2, 3, device="cuda", dtype=dtype)
        for tensors in ((x,), (x, None, x), (None, x, x.double())):
            assert explain(*tensors) == expected
            assert choose("auto", *tensors) == expected.backend
        assert choose("auto", torch.empty(2, 3, device="cpu")) == explain(torch.empty(2, 3, device="cpu")).backend


def test_auto_takes_no_triton_kernel_that_the_device_cannot_run(
    built: Callable[[bool, bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    built(False, True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: T4)
    with FakeTensorMode():
        x = torch.empty(2, 3, device="cuda", dtype=torch.bfloat16)
        assert explain(x.float(), x) == Choice("reference", f"{NO_CUDA}; Triton has no bfloat16 for T4")
        assert explain(x.float()) == BY_TRITON
    built(True, True)
    with FakeTensorMode():
        assert explain(torch.empty(2, 3, device="cuda", dtype=torch.bfloat16)) == BY_CUDA


def test_no_kernel_is_taken_on_a_gpu_that_none_was_compiled_for(
    built: Callable[[bool, bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "no kernel for V100: they begin with sm_75"
    for cuda, triton in ((True, True), (False, True)):
        built(cuda, triton)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: V100)
        with FakeTensorMode():
            x = torch.empty(2, 3, device="cuda")
            assert explain(None, x) == Choice("reference", reason)
            assert choose("auto", x) == "reference"
            with pytest.raises(
                RuntimeError, match=f"backend 'cuda' cannot serve this call: {NO_CUDA if not cuda else reason}"
            ):
                explain(x, backend="cuda")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: T4)
        with FakeTensorMode():
            assert explain(torch.empty(2, 3, device="cuda")) == (BY_CUDA if cuda else BY_TRITON)


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize(
    ("other", "dtype", "reason"),
    [
        ("cpu", torch.float32, "a tensor is on cpu, not on a CUDA device"),
        ("meta", torch.float32, "a tensor is on meta, not on a CUDA device"),
        ("cuda", torch.float8_e4m3fn, "no kernel for torch.float8_e4m3fn"),
    ],
)
def test_auto_takes_no_kernel_for_what_no_kernel_can_serve(
    built: Callable[[bool, bool], None],
    monkeypatch: pytest.MonkeyPatch,
    cuda: bool,
    other: str,
    dtype: torch.dtype,
    reason: str,
) -> None:
    built(cuda, True)
    with FakeTensorMode():
        x, y = torch.empty(2, 3, device="cuda"), torch.empty(2, 3, device=other, dtype=dtype)
        for interpreted in (False, True):  # Triton's interpreter would take any tensor
            if interpreted:
                monkeypatch.setenv("TRITON_INTERPRET", "1")
            for tensors in ((x, y), (y, x)):
                assert explain(*tensors) == Choice("reference", reason)
                assert choose("auto", *tensors) == "reference"


def test_auto_leaves_cpu_tensors_to_the_reference_where_triton_would_interpret(
    without_module: None, built: Callable[[bool, bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    built(True, True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert explain(torch.zeros(2, 3)) == Choice("reference", NO_MODULE)


@pytest.mark.parametrize(("cuda", "triton"), [(True, True), (False, True), (False, False)])
def test_torch_compile_sees_through_the_choice(built: Callable[[bool, bool], None], cuda: bool, triton: bool) -> None:
    built(cuda, triton)
    names = ("reference", "cpu", "cuda", "triton")
    torch.compiler.reset()
    with FakeTensorMode():
        x = torch.empty(2, 3, device="cuda")
        compiled = torch.compile(lambda x: torch.empty(names.index(choose("auto", x))), backend="eager", fullgraph=True)
        assert len(compiled(x)) == names.index(explain(x).backend)


def test_convolutions_of_cuda_tensors_are_left_to_pytorch(built: Callable[[bool, bool], None]) -> None:
    for cuda, triton in ((True, True), (False, True), (False, False)):
        built(cuda, triton)
        with FakeTensorMode():
            x, weight = torch.empty(32, 5, 14, 14, device="cuda"), torch.empty(5, 5, 3, 3, device="cuda")
            assert choose_for_images("auto", x, weight) == "reference"
            with pytest.raises(RuntimeError, match="'cuda' cannot serve this call: for this layer there is 'cpu'"):
                choose_for_images("cuda", x, weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_follows_a_convolution_of_cuda_tensors_is_not(
    built: Callable[[bool, bool], None], dtype: torch.dtype
) -> None:
    layer = ConvNorm(5, 3, stride=2)
    with FakeTensorMode():
        shapes = (32, 5, 14, 14), (3, 5, 3, 3), (32, 3, 7, 7)
        x, weight, residual = (torch.empty(shape, device="cuda", dtype=dtype) for shape in shapes)
        channels = torch.empty(3, device="cuda")

        def step() -> None:
            y, *_ = conv_norm(x, weight, channels, channels, residual, stride=2, padding=1)
            assert (y.dtype, y.device.type) == (dtype, "cuda")

        for cuda, triton in ((True, True), (True, False)):
            built(cuda, triton)
            assert layer.chosen(x, weight, channels, residual, backends=("cpu", "cuda")) == "cuda"
            names = [name for name in operators_of(step) if not name.startswith("prim.")]  # which ask for a device
            assert names == ["aten.convolution.default", "manifold_core.batch_norm_relu.default"]
        for cuda, triton in ((False, True), (False, False)):
            built(cuda, triton)
            assert layer.chosen(x, weight, channels, residual, backends=("cpu", "cuda")) == "reference"
            assert not any(name.startswith("manifold_core") for name in operators_of(step))
        built(True, True)
        empty = torch.empty(0, 5, 14, 14, device="cuda", dtype=dtype)
        assert layer.chosen(empty, weight, backends=("cpu", "cuda")) == "reference"
        with pytest.raises(RuntimeError, match=r"'cuda' cannot serve this call: it takes tensors with at least one"):
            choose_for_images("cuda", empty, weight, backends=("cpu", "cuda"))
        assert by_pytorch(layer).chosen(x, weight, channels, residual, backends=("cpu", "cuda")) == "reference"
        with pytest.raises(RuntimeError, match=r"'triton' cannot serve this call: .* there is 'cpu' and 'cuda'"):
            conv_norm(x, weight, channels, channels, backend="triton")


def test_cuda_kernels_that_were_not_built_cannot_be_asked_for() -> None:
    if not extension.cuda_missing_because:
        pytest.skip("they were built")
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot serve this call: the CUDA kernels are not built"):
        explain(torch.zeros(2, 3), backend="cuda")


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "triton "])
def test_an_unknown_name_is_refused(name: str) -> None:
    x = torch.zeros(2, 3)
    message = re.escape(f"backend must be one of {BACKENDS}, got {name!r}")
    for call in (
        lambda: explain(x, backend=name),
        lambda: choose(name, x),
        lambda: mc.rsample_kl(x, x, seed=1, backend=name),
        lambda: mc.gaussian_nll(x, x, 0.0, backend=name),
        lambda: gaussian_elbo(x, x, 0.0, x[:, 0], backend=name),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_choice_cannot_be_changed() -> None:
    choice = explain(torch.zeros(1), backend="reference")
    with pytest.raises(AttributeError):
        choice.backend = "cpu"


def load_extension_again(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> ModuleType:
    """kernels/extension.py, as it comes out where importing the compiled module ends in this error."""

    def fail(*_: object) -> None:
        raise error

    spec = importlib.util.spec_from_file_location(extension.__name__, extension.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", fail)
        spec.loader.exec_module(module)
    return module


def test_a_module_that_was_not_built_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = load_extension_again(monkeypatch, ModuleNotFoundError("No module named 'manifold_core._C'"))
    assert module.compiled is None
    assert "not built; install a C++17 compiler" in module.missing_because


def test_a_module_that_does_not_load_is_worth_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(RuntimeWarning, match=r"does not load: undefined symbol: f; .* works on its reference backend"):
        module = load_extension_again(monkeypatch, ImportError("undefined symbol: f"))
    assert module.compiled is None
    assert module.missing_because == "the compiled module does not load: undefined symbol: f"


@pytest.mark.parametrize("of", ["seed", "log_gamma", "grad_kl"])
def test_operators_called_by_name_read_no_other_types(compiled: object, of: str) -> None:
    """Nor memory that is not theirs: what ``torch.ops`` is given has not been checked in Python."""
    run, x, seed = torch.ops.manifold_core, torch.zeros(5, 3), torch.tensor(1)
    tril, bad_kl = torch.zeros(5, 6), torch.zeros(5, 1)
    calls: dict[str, list[Callable[[], object]]] = {
        "seed": [
            lambda: run.rsample_kl(x, x, None, None, None, seed.int(), 0, False, False),
            lambda: run.rsample_kl_backward(x, None, x, x, None, None, None, seed.float(), 0, False, False),
            lambda: run.rsample_kl_cholesky(x, tril, None, None, seed.double(), 0, False, False),
            lambda: run.rsample_kl_cholesky_backward(x, None, x, tril, None, None, seed.short(), 0, False),
        ],
        "log_gamma": [
            lambda: run.gaussian_nll(x, x, torch.tensor(1, dtype=torch.bfloat16)),
            lambda: run.gaussian_nll_backward(x[:, 0], None, x, x, torch.tensor(1.0).half(), x[:, 0]),
            lambda: run.gaussian_elbo(x, x, torch.tensor(1), x[:, 0], 1.0, True),
        ],
        "grad_kl": [
            lambda: run.rsample_kl_backward(None, bad_kl, x, x, None, None, None, seed, 0, False, False),
            lambda: run.rsample_kl_cholesky_backward(None, bad_kl, x, tril, None, None, seed, 0, False),
        ],
    }
    for call in calls[of]:
        with pytest.raises(RuntimeError, match=f"manifold_core: expected .*{of}"):
            call()


@pytest.mark.parametrize("of", ["log_var", "grad_z", "prior", "gate", "tril", "rows", "residual", "kept"])
def test_operators_called_by_name_read_no_more_than_is_there(compiled: object, of: str) -> None:
    run, x, seed = torch.ops.manifold_core, torch.zeros(5, 3), torch.tensor(1)
    tril, number, column, few = torch.zeros(5, 6), torch.tensor(0.0), torch.zeros(5), torch.zeros(4)
    images, weight, four = torch.zeros(2, 4, 5, 5), torch.ones(4, 4, 3, 3), torch.ones(4)
    sequences, gates = torch.zeros(70, 3, 2), torch.zeros(8, 2)  # of two tiles
    _, kept = run.lstm(sequences[:64], gates, gates, gates[:, 0].contiguous(), gates[:, 0].contiguous(), True)
    calls: dict[str, list[Callable[[], object]]] = {
        "log_var": [
            lambda: run.rsample_kl(x, x[:, :2], None, None, None, seed, 0, False, False),
            lambda: run.rsample_kl_backward(x, None, x, x[:4], None, None, None, seed, 0, False, False),
        ],
        "grad_z": [
            lambda: run.rsample_kl_backward(x[:4], None, x, x, None, None, None, seed, 0, False, False),
            lambda: run.rsample_kl_cholesky_backward(x[:, :2], None, x, tril, None, None, seed, 0, False),
        ],
        "prior": [
            lambda: run.rsample_kl(x, x, x, None, None, seed, 0, False, False),
            lambda: run.rsample_kl(x, x, x[:4], x, None, seed, 0, False, False),
            lambda: run.rsample_kl_cholesky(x, tril, x, x[:1, :2], seed, 0, False, False),
        ],
        "gate": [lambda: run.rsample_kl(x, x, None, None, x[:2], seed, 0, False, False)],
        "tril": [
            lambda: run.rsample_kl_cholesky(x, tril[:, :5], None, None, seed, 0, False, False),
            lambda: run.rsample_kl_cholesky_backward(x, None, x, tril[:4], None, None, seed, 0, False),
        ],
        "rows": [
            lambda: run.gaussian_nll_backward(few, None, x, x, number, column),
            lambda: run.gaussian_nll_backward(None, few, x, x, number, column),
            lambda: run.gaussian_nll_backward(column, None, x, x, number, few),
            lambda: run.gaussian_nll_backward(column, None, x, x, number, column.double()),
            lambda: run.gaussian_elbo(x, x, number, few, 1.0, True),
            lambda: run.gaussian_elbo(x, x, number, column.double(), 1.0, True),
        ],
        "residual": [lambda: run.conv_norm(images, weight, four, four, images, 1, 0, 1e-5, True)],
        "kept": [lambda: run.lstm_backward(sequences, sequences, gates, gates, kept, True)],
    }
    for call in calls[of]:
        with pytest.raises(RuntimeError, match="manifold_core: "):
            call()
