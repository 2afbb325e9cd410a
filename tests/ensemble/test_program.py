"""A model as dense layers on rows: every parameter once, and no row for two purposes at a time."""

from hypothesis import given
from hypothesis import strategies as st

import manifold_core as mc
from manifold_core.ensemble.program import DENSE_FIELDS, MODEL_FIELDS, Program, words
from manifold_core.ensemble.spec import MOST_LAYERS, outline, weights

WIDTHS = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
SPECS = st.builds(
    mc.ModelSpec,
    latent_dim=st.integers(1, 7),
    hidden=WIDTHS,
    activation=st.sampled_from(("relu", "prelu")),
    gamma=st.sampled_from(("learned", "analytic", "fixed")),
    condition_dim=st.integers(0, 4),
    condition_hidden=WIDTHS,
    condition_features=st.none() | st.integers(1, 6),
    prior=st.sampled_from(("learned", "standard")),
    attention=st.booleans(),
    covariance=st.sampled_from(("diagonal", "cholesky")),
)


def parameters_of(layer: dict[str, int]) -> list[range]:
    """The places of the numbers that a layer learns."""
    weight, bias = layer["weight"], layer["bias"]
    found = [range(weight, weight + layer["inputs"] * layer["outputs"]), range(bias, bias + layer["outputs"])]
    return found if layer["slope"] < 0 else [*found, range(layer["slope"], layer["slope"] + 1)]


@given(spec=SPECS, data_dim=st.integers(1, 12))
def test_every_parameter_is_used_exactly_once(spec: mc.ModelSpec, data_dim: int) -> None:
    model = spec.build(data_dim)
    program = Program.of(model)
    used = [place for layer in program.layers for part in parameters_of(layer) for place in part]
    if spec.gamma == "learned":
        used.append(program.numbers["log_gamma"])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sorted(used) == list(range(count))
    assert program.parameter_count == program.numbers["parameter_count"] == weights(spec, data_dim) == count
    assert len(program.layers) == spec.layers
    if spec.gamma != "learned":
        assert program.numbers["log_gamma"] == count  # behind the parameters
    # Each parameter whole, one behind the other.
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    at = 0
    for name in sorted(program.places, key=lambda name: program.places[name]):
        assert program.places[name] == at
        at += sizes.pop(name)
    assert not sizes


@given(spec=SPECS, data_dim=st.integers(1, 12))
def test_rows_are_written_once_and_before_they_are_read(spec: mc.ModelSpec, data_dim: int) -> None:
    """The forward pass: each row has one writer, and who reads it comes later."""
    program = Program.of(outline(spec, data_dim))
    n, kappa = program.numbers, spec.latent_dim
    written: set[int] = set()

    def write(first: int, count: int) -> None:
        rows = set(range(first, first + count))
        assert len(rows) == count
        assert first >= 0
        assert first + count <= n["rows"]
        assert not rows & written
        written.update(rows)

    def read(first: int, count: int) -> None:
        assert set(range(first, first + count)) <= written

    write(n["x"], data_dim)
    write(n["condition"], spec.condition_dim)
    for index, layer in enumerate(program.layers):
        if index == n["sampled_after"]:
            read(n["mu"], 2 * kappa)
            if spec.covariance == "cholesky":
                assert n["below"] == n["mu"] + 2 * kappa
                read(n["below"], kappa * (kappa - 1) // 2)
                write(n["below"] + kappa * (kappa - 1) // 2, 2 * kappa)
            else:
                assert n["below"] == -1
            for name in ("prior", "gate"):
                if n[name] >= 0:
                    read(n[name], 2 * kappa if name == "prior" else kappa)
            write(n["noise"], kappa)
            write(n["z"], kappa)
            if n["gate"] >= 0:
                write(n["gate"] + kappa, kappa)
        read(layer["in"], layer["inputs"])
        write(layer["out"], layer["outputs"])
        if layer["before"] >= 0:
            write(layer["before"], layer["outputs"])
    read(n["x_hat"], data_dim)
    assert written == set(range(n["rows"]))  # and none is left over


@given(spec=SPECS, data_dim=st.integers(1, 12))
def test_the_gradient_of_a_row_takes_its_place(spec: mc.ModelSpec, data_dim: int) -> None:
    """The backward pass: a row whose gradient is wanted is read by one layer, and got its numbers from that layer's
    producer or, of the data and of z, from no layer."""
    program = Program.of(outline(spec, data_dim))
    n = program.numbers
    readers: dict[int, list[int]] = {}
    for index, layer in enumerate(program.layers):
        wanted = range(layer["in"] + layer["wanted_from"], layer["in"] + layer["inputs"])
        for row in wanted:
            readers.setdefault(row, []).append(index)
    data = {*range(n["x"], n["x"] + data_dim), *range(n["condition"], n["condition"] + spec.condition_dim)}
    assert not data & set(readers)
    assert all(len(indices) == 1 for indices in readers.values())
    for index, layer in enumerate(program.layers):
        rows = range(layer["out"], layer["out"] + layer["outputs"])
        found = [readers.get(row) for row in rows]
        heads = ("mu", "prior", "gate", "x_hat")
        assert (layer["out"] in [n[name] for name in heads]) == (found == [None] * len(rows))
        if found[0] is None:
            assert layer["activation"] == 0
        else:
            (reader,) = {indices[0] for indices in found if indices}
            assert reader > index
            # The conditions' features stand beside x or z, and have no activation.
            assert program.layers[reader]["producer"] == (index if layer["activation"] else -1)
    z = range(n["z"], n["z"] + spec.latent_dim)
    assert all(readers[row] == [index] for row in z for index in readers[n["z"]])
    assert min(readers[n["z"]]) >= n["sampled_after"]


def test_an_example() -> None:
    program = Program.of(outline(mc.ModelSpec(2, (5,), "prelu"), 3))
    assert program.numbers == {
        "features": 3, "conditions": 0, "parameter_count": 80, "gamma": 0, "log_gamma": 79, "rows": 34,
        "x": 0, "condition": 0, "latents": 2, "mu": 13, "below": -1, "prior": -1, "gate": -1, "noise": 17, "z": 19,
        "x_hat": 31, "layer_count": 4, "sampled_after": 2,
    }  # fmt: skip
    assert [tuple(layer[name] for name in DENSE_FIELDS) for layer in program.layers] == [
        (0, 3, 3, 5, 0, 15, 2, 20, 8, 3, -1),
        (3, 5, 13, 4, 21, 41, 0, -1, -1, 0, 0),
        (19, 2, 21, 5, 45, 55, 2, 60, 26, 0, -1),
        (21, 5, 31, 3, 61, 76, 0, -1, -1, 0, 2),
    ]


def test_an_example_of_a_full_covariance() -> None:
    """One layer makes mu, log L_jj and what stands left of them: its weights, and its biases, lie side by side."""
    program = Program.of(outline(mc.ModelSpec(3, (5,), covariance="cholesky"), 4))
    n, places = program.numbers, program.places
    head = "encoder.layers.2"
    assert [places[f"{head}.{name}"] for name in ("weight", "below.weight", "bias", "below.bias")] == [25, 55, 70, 76]
    assert (n["mu"], n["below"], n["noise"], n["z"]) == (9, 15, 24, 27)  # 15 to 17 below, 18 to 23 to work in
    assert program.layers[1]["outputs"] == 9
    assert (program.layers[1]["weight"], program.layers[1]["bias"]) == (25, 70)
    alone = Program.of(outline(mc.ModelSpec(1, (5,), covariance="cholesky"), 4))  # has nothing there
    assert (alone.numbers["below"], alone.numbers["noise"], alone.layers[1]["outputs"]) == (11, 13, 2)


def test_the_largest_network_has_as_many_layers_as_there_is_room_for() -> None:
    three = (2, 2, 2)
    spec = mc.ModelSpec(2, three, "prelu", condition_dim=2, condition_hidden=three, attention=True)
    assert len(Program.of(outline(spec, 3)).layers) == MOST_LAYERS


def test_words_are_in_the_order_of_the_fields() -> None:
    numbers = {name: 100 + index for index, name in enumerate(MODEL_FIELDS)}
    layers = [{name: 1000 * (i + 1) + at for at, name in enumerate(DENSE_FIELDS)} for i in range(2)]
    found = words(numbers, layers)
    first = len(MODEL_FIELDS)
    assert found[:first] == [100 + index for index in range(first)]
    assert found[first : first + 11] == [1000 + at for at in range(11)]
    assert found[first + 11 : first + 22] == [2000 + at for at in range(11)]
    assert found[first + 22 :] == [0] * (MOST_LAYERS - 2) * 11
