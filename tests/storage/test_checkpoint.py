"""Checkpoints: what is saved comes back, a crash at any moment leaves a whole one, and damage is named."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as serialize
from torch import Tensor

from manifold_core import InputError
from manifold_core.storage import checkpoint

STATE = {"step": 7, "curve": [0.1 + 0.2, 1e-308, -0.0, 1e300], "nested": {"a": [1, None, True, "γ"]}}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tensors_file(folder: Path) -> Path:
    (path,) = folder.glob("checkpoint-*.safetensors")
    return path


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0, equal_nan=True)


class TestRoundTrip:
    @pytest.mark.parametrize(
        "dtype",
        [
            *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
            *(torch.int64, torch.int32, torch.uint8, torch.bool),
        ],
        ids=str,
    )
    def test_every_dtype(self, tmp_path: Path, dtype: torch.dtype) -> None:
        tensor = (torch.arange(-6, 6).reshape(3, 4) / 3).to(dtype)
        checkpoint.save(tmp_path, 1, {"x": tensor}, {})
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert_same(found.tensors["x"], tensor)

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.tensor(2.5),
            torch.empty(0, 3),
            torch.arange(12.0).reshape(3, 4).T,
            torch.arange(12.0).reshape(3, 4)[:, 1],
            torch.arange(3.0).expand(4, 3),
            torch.arange(48.0).reshape(2, 3, 2, 4).contiguous(memory_format=torch.channels_last),
            torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]),
            torch.nn.Parameter(torch.arange(3.0)),
            torch.arange(3.0, requires_grad=True) * 2,
        ],
        ids=["0-d", "empty", "transposed", "column", "expanded", "channels-last", "not-finite", "parameter", "graph"],
    )
    def test_every_layout(self, tmp_path: Path, tensor: Tensor) -> None:
        checkpoint.save_tensors(tmp_path / "x.safetensors", {"x": tensor})
        assert_same(checkpoint.load_tensors(tmp_path / "x.safetensors")["x"], tensor)

    def test_a_file_is_as_the_library_itself_writes_it(self, tmp_path: Path) -> None:
        """Any sizes in any order: what stands in the file and where, but for the order of equally wide numbers."""
        odd = {"γ": torch.ones(3, dtype=torch.uint8), "f": torch.arange(5.0), "none": torch.empty(0, 2)}
        odd |= {"l": torch.tensor(7), "h": torch.ones(1, 3, dtype=torch.bfloat16), "b": torch.tensor([True])}
        checkpoint.save_tensors(tmp_path / "x.safetensors", odd)
        found = checkpoint.load_tensors(tmp_path / "x.safetensors")
        for name, tensor in odd.items():
            assert_same(found[name], tensor)

        def read(content: bytes) -> tuple[dict[str, Any], int]:
            (length,) = struct.unpack("<Q", content[:8])
            parts = json.loads(content[8 : 8 + length])
            for part in parts.values():
                begin, end = part.pop("data_offsets")
                width = max(1, (end - begin) // max(1, torch.Size(part["shape"]).numel()))
                assert begin % width == length % 8 == 0
                part["bytes"] = content[8 + length :][begin:end]
            return parts, len(content) - length

        assert read((tmp_path / "x.safetensors").read_bytes()) == read(serialize(odd))

    def test_the_sign_of_zero_and_the_bits_of_nan(self, tmp_path: Path) -> None:
        tensor = torch.tensor([-0.0, 0.0, float("nan")])
        checkpoint.save_tensors(tmp_path / "x.safetensors", {"x": tensor})
        found = checkpoint.load_tensors(tmp_path / "x.safetensors")["x"]
        assert found.view(torch.int32).tolist() == tensor.view(torch.int32).tolist()

    def test_tensors_that_share_memory(self, tmp_path: Path) -> None:
        """As the weights of a model whose decoder is tied to its encoder do."""
        weight = torch.arange(12.0).reshape(3, 4)
        shared = {"encoder": weight, "decoder": weight, "rows": weight[:2], "flat": weight.view(12)}
        checkpoint.save_tensors(tmp_path / "x.safetensors", shared)
        found = checkpoint.load_tensors(tmp_path / "x.safetensors")
        assert found.keys() == shared.keys()
        for name, tensor in shared.items():
            assert_same(found[name], tensor)

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say how much was in memory")
    def test_a_save_takes_next_to_no_memory(self, tmp_path: Path) -> None:
        """Else it is the largest of all that a training needs. In a process of its own, whose peak nothing has raised
        before."""
        code = """
import sys
from pathlib import Path
import torch
from manifold_core.storage import checkpoint

def peak():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0])

tensors = {"weights": torch.ones(10_000_000), "moments": torch.ones(10_000_000)}
before = peak()
checkpoint.save_tensors(Path(sys.argv[1]), tensors)
print(peak() - before)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "x.safetensors")], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) < 10_000  # kB; the tensors have 80,000

    def test_the_state_comes_back_to_the_last_digit(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 7, {}, STATE)
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert found.tensors == {}
        assert repr(found.state) == repr(STATE)  # repr, for the sign of −0.0

    def test_what_is_loaded_no_longer_hangs_on_the_file(self, tmp_path: Path) -> None:
        """The next save deletes the file that a resumed run was loaded from."""
        checkpoint.save(tmp_path, 1, {"x": torch.arange(1000.0)}, {})
        found = checkpoint.load(tmp_path)
        assert found is not None
        checkpoint.save(tmp_path, 2, {"x": torch.zeros(1000)}, {})
        checkpoint.save(tmp_path, 1, {"x": torch.zeros(1000)}, {})
        assert_same(found.tensors["x"], torch.arange(1000.0))

    def test_only_the_newest_is_kept(self, tmp_path: Path) -> None:
        for step in (1, 2, 10**9, 3):  # a number of more digits than the name has room for, and a smaller one again
            checkpoint.save(tmp_path, step, {"x": torch.tensor(step)}, {"step": step})
            found = checkpoint.load(tmp_path)
            assert found is not None
            assert (found.tensors["x"].item(), found.state["step"]) == (step, step)
            assert len(names(tmp_path)) == 2

    def test_one_saved_while_another_process_reads_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the index and the tensors that it names, which the newer one has removed."""
        checkpoint.save(tmp_path, 1, {"w": torch.ones(2)}, {"step": 1})
        load, saved = checkpoint.load_tensors, []

        def late(path: Path) -> dict[str, Tensor]:
            if not saved:
                saved.append(checkpoint.save(tmp_path, 2, {"w": torch.zeros(2)}, {"step": 2}))
            return load(path)

        monkeypatch.setattr(checkpoint, "load_tensors", late)
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert found.state == {"step": 2}
        assert_same(found.tensors["w"], torch.zeros(2))

    def test_no_checkpoint_is_none(self, tmp_path: Path) -> None:
        assert checkpoint.load(tmp_path) is None
        # Tensors without an index: the first save was cut off between the two.
        checkpoint.save_tensors(tmp_path / "checkpoint-000000001.safetensors", {"x": torch.zeros(2)})
        assert checkpoint.load(tmp_path) is None

    def test_a_save_leaves_other_files_alone(self, tmp_path: Path) -> None:
        others = {"checkpoint-best.safetensors", "model-000000001.safetensors", "notes.txt"}
        for name in others:
            (tmp_path / name).write_text("somebody's work")
        for step in (1, 2):
            checkpoint.save(tmp_path, step, {"x": torch.zeros(2)}, {})
        checkpoint.remove(tmp_path)
        assert names(tmp_path) == others


class TestNothingCanRun:
    def test_no_file_is_a_pickle(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.arange(5.0)}, STATE)
        for path in tmp_path.iterdir():
            content = path.read_bytes()
            assert not content.startswith((b"\x80", b"PK", b"\x1f\x8b")), path.name  # pickle, zip, gzip
        assert json.loads((tmp_path / checkpoint.INDEX).read_text(encoding="utf-8"))["state"] == STATE
        content = tensors_file(tmp_path).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        begin, end = header["x"]["data_offsets"]
        assert struct.unpack("<5f", content[8 + length :][begin:end]) == (0.0, 1.0, 2.0, 3.0, 4.0)

    def test_a_pickle_in_place_of_the_tensors_is_not_loaded(self, tmp_path: Path) -> None:
        class Canary:
            def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
                return os.mkdir, (str(tmp_path / "it ran"),)

        checkpoint.save(tmp_path, 1, {"x": torch.zeros(2)}, {})
        path = tensors_file(tmp_path)
        torch.save({"x": Canary()}, path)
        with pytest.raises(InputError, match=re.escape(path.name)):
            checkpoint.load(tmp_path)
        assert not (tmp_path / "it ran").exists()


class TestDamage:
    @pytest.mark.parametrize("kept", [0, 1, 7, 8, 20, 0.5, -4, -1])
    def test_truncated_tensors_are_named(self, tmp_path: Path, kept: float) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.arange(100.0)}, {})
        path = tensors_file(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
        with pytest.raises(InputError, match=f"{re.escape(str(path))}.*expected a whole safetensors file"):
            checkpoint.load(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"\xff" * 64, b"\0" * 64, struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 4) + b'{"x"' + b"\0" * 8],
        ids=["ones", "zeros", "endless-header", "half-header"],
    )
    def test_garbage_for_tensors_is_named(self, tmp_path: Path, content: bytes) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.arange(100.0)}, {})
        path = tensors_file(tmp_path)
        path.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(path))):
            checkpoint.load(tmp_path)

    def test_missing_tensors_are_named(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.arange(100.0)}, {})
        path = tensors_file(tmp_path)
        path.unlink()
        with pytest.raises(InputError, match=re.escape(str(path))):
            checkpoint.load(tmp_path)
        path.mkdir()
        with pytest.raises(InputError, match=re.escape(str(path))):
            checkpoint.load(tmp_path)

    @pytest.mark.parametrize("kept", [0, 1, 0.3, 0.9, -3])
    def test_a_truncated_index_is_named(self, tmp_path: Path, kept: float) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.arange(100.0)}, STATE)
        path = tmp_path / checkpoint.INDEX
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
        with pytest.raises(InputError, match=f"{re.escape(str(path))}.*expected JSON written by a run"):
            checkpoint.load(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            *("null", "3", '"tensors"', "[]", '["tensors", "state"]', "{}"),
            *('{"tensors": "NAME"}', '{"state": {}}', '{"tensors": "NAME", "state": 3}'),
            *('{"tensors": "NAME", "state": null}', '{"tensors": "NAME", "state": "step"}'),
            *("{'tensors': 'NAME', 'state': {}}", "NAME", "\xff\xfe"),
        ],
    )
    def test_an_index_of_another_shape_is_named(self, tmp_path: Path, content: str) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.zeros(2)}, {})
        path = tmp_path / checkpoint.INDEX
        path.write_bytes(content.replace("NAME", tensors_file(tmp_path).name).encode("latin-1"))
        with pytest.raises(InputError, match=re.escape(str(path))):
            checkpoint.load(tmp_path)

    @pytest.mark.parametrize("name", ["", ".", "..", None, 3, ["x"], "nowhere.safetensors"])
    def test_an_index_that_names_no_file_is_refused(self, tmp_path: Path, name: object) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.zeros(2)}, {})
        (tmp_path / checkpoint.INDEX).write_text(json.dumps({"tensors": name, "state": {}}))
        with pytest.raises(InputError, match=re.escape(str(tmp_path))):
            checkpoint.load(tmp_path)

    def test_an_index_that_is_a_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / checkpoint.INDEX).mkdir()
        with pytest.raises(InputError, match=re.escape(str(tmp_path / checkpoint.INDEX))):
            checkpoint.load(tmp_path)

    def test_an_index_cannot_point_out_of_its_folder(self, tmp_path: Path) -> None:
        checkpoint.save_tensors(tmp_path / "outside.safetensors", {"x": torch.zeros(2)})
        folder = tmp_path / "run"
        folder.mkdir()
        for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
            (folder / checkpoint.INDEX).write_text(json.dumps({"tensors": name, "state": {}}))
            with pytest.raises(InputError, match=r"outside\.safetensors"):
                checkpoint.load(folder)

    def test_what_cannot_be_read_is_left_as_it_is(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 1, {"x": torch.arange(100.0)}, STATE)
        path = tensors_file(tmp_path)
        path.write_bytes(path.read_bytes()[:50])
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(InputError):
            checkpoint.load(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestRemove:
    def test_all_of_the_checkpoint_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "weights.safetensors").write_bytes(b"weights")
        checkpoint.remove(tmp_path)  # nothing there: nothing to do
        checkpoint.save(tmp_path, 1, {"x": torch.zeros(2)}, {})
        checkpoint.save_tensors(tmp_path / "checkpoint-000000002.safetensors", {"x": torch.zeros(2)})  # half a save
        checkpoint.remove(tmp_path)
        assert names(tmp_path) == {"weights.safetensors"}
        assert checkpoint.load(tmp_path) is None


# Ends processes in the middle of a save or a removal, tells what is left each time. One process that forks: each start
# of Python with torch takes seconds. It knows nothing of how a save is done: it ends the process at the n-th opening,
# renaming, deleting or flushing of a file in the folder, and, by the limit that the system sets to the size of a file,
# in the middle of a write, after n bytes.
CRASHES = """
import json, os, resource, signal, sys
from pathlib import Path
import torch
from manifold_core.storage import checkpoint

def save(folder, value):  # tensors and index about equally large: the limit cuts off either
    checkpoint.save(folder, value, {"w": torch.full((500,), float(value))}, {"curve": [value] * 400})

def stop_at_event(folder, n):
    seen = 0
    def count(*_):
        nonlocal seen
        seen += 1
        if seen > n:
            os._exit(9)
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.truncate"):
            if isinstance(arguments[0], (str, os.PathLike)) and str(arguments[0]).startswith(str(folder)):
                count()
    flush = os.fsync
    os.fsync = lambda file: (count(), flush(file))
    sys.addaudithook(hook)

def stop_at_byte(n, kills):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kills else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))

def held(folder):
    try:
        found = checkpoint.load(folder)
    except Exception as error:
        return str(error)
    return found and sorted({int(value) for value in (*found.tensors["w"].tolist(), *found.state["curve"])})

def attempt(what, first, prepare, act):
    folder = Path(sys.argv[1], what.replace(" ", "-"))
    folder.mkdir()
    if first is not None:
        save(folder, first)
    sys.stdout.flush()
    if (process := os.fork()) == 0:
        prepare(folder)
        try:
            act(folder)
        except BaseException as error:
            os._exit(5 if isinstance(error, OSError) else 6)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    result = {"what": what, "status": status, "left": sorted(os.listdir(folder)), "held": held(folder)}
    save(folder, 3)
    result |= {"then": sorted(os.listdir(folder)), "then_held": held(folder)}
    checkpoint.remove(folder)
    print(json.dumps(result | {"finally": os.listdir(folder)}))
    return status

for first in (None, 1):
    for act, what in ((lambda folder: save(folder, 2), "save"), (checkpoint.remove, "remove")):
        n = 0
        while attempt(f"{what} after {first} event {n}", first, lambda folder: stop_at_event(folder, n), act):
            n += 1
    for kills in (True, False):
        for n in (0, 1, 1000, 2100, 2200, 3000, 5000):
            what = f"save after {first} {'killed' if kills else 'failing'} at byte {n}"
            attempt(what, first, lambda folder: stop_at_byte(n, kills), lambda folder: save(folder, 2))
"""


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("crashes")
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # a fork among threads could hang
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork to make crashes with")
class TestCrash:
    @pytest.mark.parametrize("first", [None, 1])
    def test_a_save_cut_off_anywhere_leaves_the_old_checkpoint_or_the_new(
        self, crashes: list[dict[str, Any]], first: int | None
    ) -> None:
        saves = [crash for crash in crashes if crash["what"].startswith(f"save after {first}")]
        assert sum(crash["status"] == 9 for crash in saves) >= 5
        assert sum(crash["status"] < 0 for crash in saves) >= 5
        old = None if first is None else [first]
        for crash in saves:
            assert crash["held"] in (old, [2]), crash
        # The cuts lie on either side of the one moment that counts, and a save that is let through is the new one.
        assert {str(crash["held"]) for crash in saves} == {str(old), "[2]"}
        assert all(crash["held"] == [2] for crash in saves if crash["status"] == 0)

    def test_a_removal_cut_off_anywhere_leaves_a_whole_checkpoint_or_none(self, crashes: list[dict[str, Any]]) -> None:
        removals = [crash for crash in crashes if crash["what"].startswith("remove after 1")]
        assert sum(crash["status"] == 9 for crash in removals) == 2
        assert [crash["held"] for crash in removals] == [[1], None, None]

    def test_a_full_disk_is_an_error_and_leaves_the_old_checkpoint_alone(self, crashes: list[dict[str, Any]]) -> None:
        failures = [crash for crash in crashes if "save after 1 failing" in crash["what"] and crash["status"] == 5]
        assert len(failures) >= 4
        for crash in failures:
            assert crash["held"] == [1], crash
            assert not [name for name in crash["left"] if name.startswith(".")], crash

    def test_the_next_save_is_not_disturbed(self, crashes: list[dict[str, Any]]) -> None:
        for crash in crashes:
            assert crash["then_held"] == [3], crash

    def test_the_next_save_clears_away_what_a_killed_one_left(self, crashes: list[dict[str, Any]]) -> None:
        """Else every kill in a save costs the space of a checkpoint, for ever."""
        for crash in crashes:
            assert crash["then"] == ["checkpoint-000000003.safetensors", "checkpoint.json"], crash
            assert crash["finally"] == [], crash


def test_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure after a renaming must not find a name without content; and no index names what is not there."""
    flushed: set[int] = set()
    renamed: list[str] = []
    flush, replace = os.fsync, Path.replace

    def recorded_flush(file: int) -> None:
        flush(file)
        flushed.add(os.fstat(file).st_ino)

    def recorded_replace(source: Path, target: Path) -> Path:
        assert source.stat().st_ino in flushed
        assert source.parent == target.parent  # one file system: the renaming is one step
        renamed.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_flush)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    checkpoint.save(tmp_path, 5, {"x": torch.zeros(3)}, {})
    assert renamed == ["checkpoint-000000005.safetensors", checkpoint.INDEX]


def test_tensors_and_index_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """A colleague who may read metrics.json may read the weights beside it."""
    (tmp_path / "any").touch()
    checkpoint.save(tmp_path, 1, {"x": torch.zeros(3)}, {})
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
