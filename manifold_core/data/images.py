"""MNIST and Fashion-MNIST: where their files are, and the files as a data set."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..storage.files import AnyPath, as_folder
from .dataset import Dataset
from .encoding import OneHot
from .idx import read_idx, unpacked

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "IMAGE_SETS",
    "ImageSet",
    "fetch_images",
    "find_images",
    "load_images",
    "under_labels",
]

ImageSet = Literal["mnist", "fashion-mnist"]
IMAGE_SETS: tuple[ImageSet, ...] = get_args(ImageSet)
ENVIRONMENT_VARIABLE = "MANIFOLD_CORE_DATA"
CLASSES = 10  # of either set

# Of the unpacked files: the mirrors pack them differently.
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
# In order of preference; a file is at <mirror><file>.gz. What comes over plain http is checked like the rest.
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
}
# Where Debian's package dataset-fashion-mnist puts its files.
SYSTEM_FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}

_REMEDY = f"give the folder that holds them (argument folder, or environment variable {ENVIRONMENT_VARIABLE})"


def load_images(name: ImageSet, folder: AnyPath | None = None) -> Dataset:
    """Images of "mnist" or "fashion-mnist", pixels divided by 255, with their labels.

    The files are those that `find_images` finds. If it finds none, they are downloaded to the user's cache folder
    (needs the extra ``experiments``), and kept if the sha256 of the unpacked content is right.

    Args:
        name: ``"mnist"`` or ``"fashion-mnist"``.
        folder: where the files are, see `find_images`; if given, nothing is downloaded.

    Returns:
        Data set with ``train`` and ``validation`` (the files called t10k) ``[N, 1, 28, 28]``, float32 in [0, 1], and
        labels ``[N]``, int64 in 0..9.

    Raises:
        InputError: ``name`` is unknown, ``folder`` lacks the files, a file is damaged or does not hold 28×28 images
            with one label in 0..9 each, or no mirror could serve the files.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; Xiao, Rasul and Vollgraf,
    "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (2017).
    """
    source = fetch_images(name, folder)
    train, train_labels = _read_split(source, "train")
    validation, validation_labels = _read_split(source, "t10k")
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        train_labels=train_labels,
        validation_labels=validation_labels,
    )


def fetch_images(name: ImageSet, folder: AnyPath | None = None) -> Path:
    """The folder of their files, which are downloaded if there is none; see :func:`load_images`."""
    return find_images(name, folder) or _download(name)


def under_labels(data: Dataset) -> Dataset:
    """The same images with their class, in one-hot form, as the condition."""
    encoding = OneHot(tuple(range(CLASSES)))
    return replace(
        data,
        train_condition=encoding.apply(data.train_labels),
        validation_condition=encoding.apply(data.validation_labels),
        condition_encoding=encoding,
    )


def find_images(name: ImageSet, folder: AnyPath | None = None) -> Path | None:
    """Folder on this machine that holds the files of ``name``, or None; never downloads.

    Searched in this order: ``folder``; the folder named by the environment variable ``MANIFOLD_CORE_DATA``; where
    Debian's package dataset-fashion-mnist puts its files; the cache of earlier downloads, whose sha256 is checked
    again. ``folder`` and the environment's folder hold the four files ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``,
    with or without ``.gz``, in a subfolder called ``name`` or directly. Changed versions of the files are welcome
    there, but files of one data set are not taken for the other's.

    Raises:
        InputError: ``name`` is unknown, ``folder`` is given and lacks the files, ``MANIFOLD_CORE_DATA`` names no
            folder, or the files are nowhere else and there is no home folder in which a cache could be.
    """
    if name not in IMAGE_SETS:
        raise InputError(f"name must be one of {', '.join(map(repr, IMAGE_SETS))}, got {name!r}")
    if folder is not None:
        return _in_given_folder(as_folder("folder", folder), name)
    candidates = []
    if from_environment := os.environ.get(ENVIRONMENT_VARIABLE):
        if not os.path.isdir(from_environment):
            raise InputError(f"{ENVIRONMENT_VARIABLE}={from_environment}: no such folder")
        candidates += _layouts(Path(from_environment), name)
    if name in SYSTEM_FOLDERS:
        candidates.append(SYSTEM_FOLDERS[name])
    for candidate in candidates:
        if not _missing(candidate, name) and _other_set(candidate, name) is None:
            return candidate
    cache = _cache_folder(name)
    if cache is not None and all(_is_genuine(cache / file, digest) for file, digest in SHA256[name].items()):
        return cache
    return None


def _in_given_folder(folder: Path, name: str) -> Path:
    if not os.path.isdir(folder):
        raise InputError(f"folder={str(folder)!r}: no such folder")
    problems = []
    for candidate in _layouts(folder, name):
        if missing := _missing(candidate, name):
            problems.append(f"{candidate} lacks {', '.join(missing)}")
        elif other := _other_set(candidate, name):
            problems.append(f"{candidate} holds {other}")
        else:
            return candidate
    raise InputError(
        f"folder={str(folder)!r}: expected the files of {name}, with or without .gz; {'; '.join(problems)}"
    )


def _layouts(folder: Path, name: str) -> list[Path]:
    return [folder / name, folder]


def _missing(folder: Path, name: str) -> list[str]:
    return [file for file in SHA256[name] if _file(folder, file) is None]


def _file(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if os.path.isfile(path)), None)


def _other_set(folder: Path, name: str) -> str | None:
    """Name of the other data set if the files, which have the same names, are its own."""
    file = "t10k-labels-idx1-ubyte"
    path = _file(folder, file)
    digest = _sha256(path) if path is not None else None
    return next((other for other, digests in SHA256.items() if other != name and digests[file] == digest), None)


def _read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    images_path, images = _read(folder, f"{split}-images-idx3-ubyte")
    labels_path, labels = _read(folder, f"{split}-labels-idx1-ubyte")
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise InputError(f"{images_path}: shape {images.shape}; expected (N, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise InputError(f"{labels_path}: shape {labels.shape}; expected ({len(images)},), one label for each image")
    if labels.max() >= CLASSES:
        raise InputError(f"{labels_path}: label {labels.max()}; expected 0 to {CLASSES - 1}")
    pixels = torch.from_numpy(images).to(torch.float32).div_(255).unsqueeze(1)
    return pixels, torch.from_numpy(labels).to(torch.int64)


def _read(folder: Path, file: str) -> tuple[Path, npt.NDArray[np.uint8]]:
    path = _file(folder, file) or folder / file
    return path, read_idx(path)


def _cache_folder(name: str) -> Path | None:
    """Where downloads are kept; None without pooch, which makes them."""
    try:
        import pooch
    except ImportError:
        return None
    try:
        return Path(pooch.os_cache("manifold-core")) / name
    except RuntimeError as error:  # of a user whom the system does not know, as in a container
        raise InputError(f"{name} has no cache folder: {error}; or {_REMEDY}") from error


def _is_genuine(path: Path, digest: str) -> bool:
    return os.path.isfile(path) and _sha256(path) == digest


def _sha256(path: Path) -> str:
    """The SHA-256 of the unpacked content."""
    state = hashlib.sha256()
    with unpacked(path) as stream:
        while piece := stream.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def _download(name: str) -> Path:
    cache = _cache_folder(name)
    if cache is None:
        raise InputError(
            f"the files of {name} are not on this machine and downloading them needs pooch: "
            f"pip install pooch, or {_REMEDY}"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for file, digest in SHA256[name].items():
            if not _is_genuine(cache / file, digest):
                _fetch(MIRRORS[name], file, digest, cache)
    except OSError as error:
        raise InputError(f"cannot write to the cache folder {cache} ({error}); {_REMEDY}") from error
    return cache


def _fetch(mirrors: tuple[str, ...], file: str, digest: str, cache: Path) -> None:
    """Download one file; it gets its name in ``cache`` only once its sha256 has been found right."""
    import pooch

    failures = []
    for mirror in mirrors:
        url = f"{mirror}{file}.gz"
        with TemporaryDirectory(dir=cache) as scratch:
            archive, content = Path(scratch, "archive"), Path(scratch, "content")
            try:
                pooch.HTTPDownloader(chunk_size=1 << 16)(url, str(archive), None)
                with unpacked(archive) as source, content.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except (OSError, InputError) as error:  # requests raises OSErrors
                failures.append(f"{url}: {error}")
                continue
            if (found := _sha256(content)) == digest:
                os.replace(content, cache / file)
                return
            failures.append(f"{url}: sha256 of the unpacked content is {found}, expected {digest}")
    raise InputError(f"{file} could not be downloaded; {_REMEDY}. What went wrong:\n  " + "\n  ".join(failures))
