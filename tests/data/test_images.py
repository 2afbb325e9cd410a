import gzip
import hashlib
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from manifold_core.data import find_images, images, load_images
from manifold_core.errors import InputError

SETS = ("mnist", "fashion-mnist")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def contents(first=0, n_train=4, n_test=3):
    """The four files of a tiny data set that begins with pixel and label ``first``."""
    files = {}
    for split, n in (("train", n_train), ("t10k", n_test)):
        pixels = (first + np.arange(n * 28 * 28).reshape(n, 28, 28)) % 256
        files[f"{split}-images-idx3-ubyte"] = idx(pixels)
        files[f"{split}-labels-idx1-ubyte"] = idx((first + np.arange(n)) % 10)
    return files


def write(folder, files, pack=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if pack:
            (folder / f"{name}.gz").write_bytes(pack(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A machine that has no data yet, and a network of one closed port."""
    pooch = pytest.importorskip("pooch")
    cache = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: cache / project)
    monkeypatch.delenv(images.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(images, "SYSTEM_FOLDERS", {})
    monkeypatch.setattr(images, "MIRRORS", dict.fromkeys(SETS, ("http://127.0.0.1:9/",)))
    return cache / "manifold-core"


@pytest.fixture
def published(monkeypatch):
    """Tiny files in the part of the published ones."""
    files = {"mnist": contents(1), "fashion-mnist": contents(2)}
    digests = {name: {file: hashlib.sha256(c).hexdigest() for file, c in fs.items()} for name, fs in files.items()}
    monkeypatch.setattr(images, "SHA256", digests)
    return files


class Mirror(ThreadingHTTPServer):
    """Serves a folder on this machine and notes what was asked for."""

    def __init__(self, folder):
        self.asked = []
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    def log_request(self, *args):
        self.server.asked.append(self.path.lstrip("/"))

    def log_error(self, *args):
        pass


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    with Mirror(folder) as server:
        server.folder = folder
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("pack", [None, gzip.compress])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_given_folder(tmp_path, pack, subfolder):
    write(tmp_path / "given" / subfolder, contents(5), pack)
    data = load_images("mnist", tmp_path / "given")
    assert data.name == "mnist"
    assert data.train.shape == (4, 1, 28, 28)
    assert data.validation.shape == (3, 1, 28, 28)
    assert data.train.dtype == data.validation.dtype == torch.float32
    pixels = [(5 + i) % 256 / 255 for i in range(4 * 784)]
    np.testing.assert_allclose(data.train.flatten().numpy(), pixels, rtol=1e-6)
    np.testing.assert_allclose(data.validation.flatten().numpy(), pixels[: 3 * 784], rtol=1e-6)
    assert (data.train.min(), data.train.max()) == (0, 1)
    assert data.train_labels.tolist() == [5, 6, 7, 8]
    assert data.validation_labels.tolist() == [5, 6, 7]
    assert data.train_labels.dtype == data.validation_labels.dtype == torch.int64
    assert data.manifold_dim is None


def test_given_folder_may_hold_both_sets(tmp_path):
    for label, name in enumerate(SETS):
        write(tmp_path / name, contents(label))
    assert [load_images(name, str(tmp_path)).train_labels[0] for name in SETS] == [0, 1]


def test_order_of_sources(tmp_path, monkeypatch, elsewhere, published):
    assert find_images("fashion-mnist") is None

    cached = write(elsewhere / "fashion-mnist", published["fashion-mnist"])
    assert find_images("fashion-mnist") == cached
    system = write(tmp_path / "system", contents(4))
    monkeypatch.setattr(images, "SYSTEM_FOLDERS", {"fashion-mnist": system})
    assert find_images("fashion-mnist") == system
    assert find_images("mnist") is None
    from_environment = write(tmp_path / "environment" / "fashion-mnist", contents(5))
    monkeypatch.setenv(images.ENVIRONMENT_VARIABLE, str(from_environment.parent))
    assert find_images("fashion-mnist") == from_environment
    assert find_images("mnist") is None
    given = write(tmp_path / "given", contents(6))
    assert find_images("fashion-mnist", given) == given
    assert load_images("fashion-mnist", given).train_labels[0] == 6
    assert load_images("fashion-mnist").train_labels[0] == 5


def test_one_set_is_not_taken_for_the_other(tmp_path, monkeypatch, published):
    folder = write(tmp_path / "given", published["mnist"], gzip.compress)
    assert find_images("mnist", folder) == folder
    with pytest.raises(InputError, match=r"given holds mnist$"):
        find_images("fashion-mnist", folder)
    monkeypatch.setenv(images.ENVIRONMENT_VARIABLE, str(folder))
    assert find_images("mnist") == folder
    assert find_images("fashion-mnist") is None


def test_given_folder_without_the_files_is_never_replaced_by_a_download(tmp_path, monkeypatch, mirror, published):
    write(mirror.folder, published["mnist"], gzip.compress)
    monkeypatch.setattr(images, "MIRRORS", {"mnist": (mirror.url,)})
    files = contents()
    del files["t10k-labels-idx1-ubyte"]
    write(tmp_path / "given", files)
    with pytest.raises(InputError, match=r"given lacks t10k-labels-idx1-ubyte$") as caught:
        load_images("mnist", tmp_path / "given")
    assert "mnist lacks train-images-idx3-ubyte, train-labels-idx1-ubyte" in str(caught.value)
    with pytest.raises(InputError, match=r"absent'?: no such folder"):
        load_images("mnist", tmp_path / "absent")
    assert mirror.asked == []


def test_environment_must_name_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(images.ENVIRONMENT_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"MANIFOLD_CORE_DATA=.*absent: no such folder"):
        find_images("mnist")
    monkeypatch.setenv(images.ENVIRONMENT_VARIABLE, "")
    assert find_images("mnist") is None


@pytest.mark.parametrize("call", [find_images, load_images])
def test_unknown_name(call):
    with pytest.raises(InputError, match=r"name must be one of 'mnist', 'fashion-mnist', got 'MNIST'"):
        call("MNIST")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros((4, 28, 27))), r"shape \(4, 28, 27\); expected \(N, 28, 28\)"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((3, 784))), r"shape \(3, 784\); expected \(N, 28, 28\)"),
        ("train-labels-idx1-ubyte", idx(np.zeros(5)), r"shape \(5,\); expected \(4,\)"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros((3, 1))), r"shape \(3, 1\); expected \(3,\)"),
        ("train-labels-idx1-ubyte", idx(np.array([0, 1, 10, 2])), "label 10; expected 0 to 9"),
        ("t10k-images-idx3-ubyte", b"", "empty"),
    ],
)
def test_refuses_files_of_another_form(tmp_path, file, content, expected):
    write(tmp_path, {**contents(), file: content})
    with pytest.raises(InputError, match=f"{file}: {expected}"):
        load_images("mnist", tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])  # a server may unpack on the way
def test_downloads_once(monkeypatch, elsewhere, mirror, published, pack):
    write(mirror.folder, published["mnist"], pack)
    monkeypatch.setattr(images, "MIRRORS", {"mnist": (mirror.url,)})
    assert load_images("mnist").train_labels.tolist() == [1, 2, 3, 4]
    assert load_images("mnist").validation_labels.tolist() == [1, 2, 3]
    assert sorted(mirror.asked) == sorted(f"{file}.gz" for file in published["mnist"])
    assert find_images("mnist") == elsewhere / "mnist"
    assert {path.name: path.read_bytes() for path in (elsewhere / "mnist").iterdir()} == published["mnist"]


def test_next_mirror_serves_what_the_first_cannot(tmp_path, monkeypatch, elsewhere, mirror, published):
    files = published["mnist"]
    first, second = tmp_path / "mirror" / "first", tmp_path / "mirror" / "second"
    write(first, files, gzip.compress)
    (first / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(contents(9)["train-images-idx3-ubyte"]))
    (first / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(files["train-labels-idx1-ubyte"])[:-9])
    (first / "t10k-images-idx3-ubyte.gz").unlink()
    write(second, files, partial(gzip.compress, compresslevel=1))
    monkeypatch.setattr(images, "MIRRORS", {"mnist": (f"{mirror.url}first/", f"{mirror.url}second/")})
    assert load_images("mnist").train_labels.tolist() == [1, 2, 3, 4]
    assert {path.name: path.read_bytes() for path in (elsewhere / "mnist").iterdir()} == files
    assert sum("second/" in line for line in mirror.asked) == 3


def test_nothing_is_cached_that_failed_its_check(monkeypatch, elsewhere, mirror, published):
    write(mirror.folder, {**published["mnist"], **{"train-images-idx3-ubyte": b"advertisement"}}, gzip.compress)
    dead = "http://127.0.0.1:9/"
    monkeypatch.setattr(images, "MIRRORS", {"mnist": (dead, mirror.url)})
    with pytest.raises(InputError, match="train-images-idx3-ubyte could not be downloaded") as caught:
        load_images("mnist")
    message = str(caught.value)
    assert f"{dead}train-images-idx3-ubyte.gz: " in message
    found = hashlib.sha256(b"advertisement").hexdigest()
    assert f"{mirror.url}train-images-idx3-ubyte.gz: sha256 of the unpacked content is {found}, expected" in message
    assert "MANIFOLD_CORE_DATA" in message
    assert list((elsewhere / "mnist").iterdir()) == []
    assert find_images("mnist") is None


def test_damaged_cache_is_mended(monkeypatch, elsewhere, mirror, published):
    write(elsewhere / "mnist", published["mnist"])
    damaged = elsewhere / "mnist" / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x09")
    assert find_images("mnist") is None
    write(mirror.folder, published["mnist"], gzip.compress)
    monkeypatch.setattr(images, "MIRRORS", {"mnist": (mirror.url,)})
    assert load_images("mnist").validation_labels.tolist() == [1, 2, 3]
    assert len(mirror.asked) == 1


def test_cache_that_cannot_be_written(elsewhere, published):
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"in the way")
    with pytest.raises(InputError, match=r"cannot write to the cache folder .*MANIFOLD_CORE_DATA"):
        load_images("mnist")


def test_without_a_home_folder(tmp_path, monkeypatch, elsewhere, published):
    """Of a user whom the system does not know, as one that a container runs by its number."""

    def os_cache(project):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("pooch.os_cache", os_cache)
    for call in (find_images, load_images):
        with pytest.raises(InputError, match=r"^mnist has no cache folder: .* home directory; or give .*_DATA\)$"):
            call("mnist")
    folder = write(tmp_path / "given", published["mnist"])
    assert find_images("mnist", folder) == folder


def test_without_pooch(tmp_path, monkeypatch, elsewhere, published):
    write(elsewhere / "mnist", published["mnist"])
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert find_images("mnist") is None
    with pytest.raises(InputError, match="needs pooch: pip install pooch, or"):
        load_images("mnist")
    write(tmp_path / "given", contents(3))
    assert load_images("mnist", tmp_path / "given").train_labels[0] == 3


def test_published_digests_are_those_of_eight_different_files():
    digests = [digest for files in images.SHA256.values() for digest in files.values()]
    assert len(set(digests)) == 8
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
    assert images.SHA256.keys() == set(SETS)
