"""What a user may write where data are asked for: every kind of file is recognised, and only as what it is."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from gendiff_plugins.data.folder import Folder
from published import (
    cifar_archive,
    cifar_folder,
    encoded,
    idx_folder,
    lsun_folder,
    pictures,
    tar_of,
    values,
    zip_of,
)

from gendiff.component import Component
from gendiff.data import Data
from gendiff.datasets.packing import pack
from gendiff.datasets.sources import source, tolerant
from gendiff.errors import ConfigError, DataError
from gendiff.plugin.discovery import Plugin, Provider
from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.registry import Registry, default_registry


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Data of every kind, as they come."""
    root = tmp_path_factory.mktemp("sources")
    (root / "photos" / "deep").mkdir(parents=True)
    (root / "photos" / "deep" / "a.JPG").write_bytes(encoded(values(6, 10, 3), "JPEG"))
    zip_of(root / "photos.zip", pictures())
    shutil.copy(root / "photos.zip", root / "no ending")
    lsun_folder(root / "church_outdoor_train_lmdb", pictures().values())
    cifar_archive(root / "cifar")
    shutil.copy(root / "cifar" / "cifar-10-python.tar.gz", root / "renamed.tgz")
    cifar_archive(root / "cifar-binary", "binary")
    cifar_folder(root / "unpacked", "binary")
    idx_folder(root / "digits-28")
    (root / "Fashion").mkdir()
    idx_folder(root / "Fashion" / "raw")
    for name in ("MNIST", "FashionMNIST"):
        (root / f"torchvision-{name}" / name).mkdir(parents=True)
        idx_folder(root / f"torchvision-{name}" / name / "raw")
    np.save(root / "a.npy", values(3, 6, 10, 3))
    np.savez(root / "a.npz", values(3, 6, 10, 3))
    (root / "saved").mkdir()
    for name in ("dataset_info.json", "state.json"):
        (root / "saved" / name).write_text("{}")
    (root / "splits").mkdir()
    (root / "splits" / "dataset_dict.json").write_text("{}")
    pack(Folder(path=root / "photos", size=4), root / "packed")
    return root


def read_as(path):
    return source(default_registry(), str(path))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("photos", "folder"),
        ("photos.zip", "zip"),
        ("no ending", "zip"),
        ("church_outdoor_train_lmdb", "lsun"),
        ("cifar", "cifar10"),
        ("cifar/cifar-10-python.tar.gz", "cifar10"),
        ("renamed.tgz", "cifar10"),
        ("cifar-binary/cifar-10-binary.tar.gz", "cifar10"),
        ("unpacked", "cifar10"),
        ("unpacked/cifar-10-batches-bin", "cifar10"),
        ("digits-28", "mnist"),
        ("Fashion", "fashion-mnist"),
        ("Fashion/raw", "fashion-mnist"),
        ("torchvision-MNIST", "mnist"),
        ("torchvision-FashionMNIST", "fashion-mnist"),
        ("torchvision-FashionMNIST/FashionMNIST/raw", "fashion-mnist"),
        ("a.npy", "npy"),
        ("saved", "huggingface"),
        ("splits", "huggingface"),
        ("packed", "packed"),
    ],
)
def test_a_path_is_recognised(here, path, expected):
    assert read_as(here / path) == {"name": expected, "path": str(here / path)}


def test_a_file_inside_is_recognised_as_what_holds_it(here):
    lsun = here / "church_outdoor_train_lmdb"
    assert read_as(lsun / "data.mdb") == {"name": "lsun", "path": str(lsun)}
    digits = here / "digits-28"
    for split, file in (({}, "train-images-idx3-ubyte.gz"), ({"split": "test"}, "t10k-images-idx3-ubyte")):
        assert read_as(digits / file) == {"name": "mnist", "path": str(digits), **split}


def test_what_is_recognised_can_be_read(here):
    for path in ("photos", "no ending", "church_outdoor_train_lmdb", "renamed.tgz", "Fashion/raw", "a.npy", "packed"):
        data = Data.model_validate(read_as(here / path))
        assert data[0].shape == data.event_shape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", {"name": "digits"}),
        ("folder:path=x,size=8", {"name": "folder", "path": "x", "size": 8}),
        ("lsun:path='a,b'", {"name": "lsun", "path": "a,b"}),
    ],
)
def test_a_spec_stays_what_it_says(text, expected):
    assert source(default_registry(), text) == expected


def test_a_name_of_data_is_no_path(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "a.png").write_bytes(encoded(values(6, 10, 3)))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        UserWarning, match="'digits' is taken as the data of that name; what is called so here is ./digits"
    ):
        assert read_as("digits") == {"name": "digits"}
    assert read_as("./digits") == {"name": "folder", "path": "digits"}


def test_a_path_may_hold_what_specs_are_made_of(tmp_path, monkeypatch):
    folder = tmp_path / "a:b, size=3"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(values(6, 10, 3)))
    monkeypatch.chdir(tmp_path)
    data = Data.model_validate(read_as("a:b, size=3"))
    assert data.length == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Data.model_validate(read_as("~/a:b, size=3")).length == 1


def error_of(text, kind):
    with pytest.raises(kind) as caught:
        read_as(text)
    assert caught.value.fix
    return str(caught.value)


def test_what_is_nothing_is_named(tmp_path):
    assert "did you mean 'folder'?" in error_of("fodler:path=x", ConfigError)
    assert "there is no" in error_of(tmp_path / "missing", DataError)
    assert "there is no './missing'" in error_of("./missing", DataError)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "nothing.png").write_bytes(b"")
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"\x1f\x8b broken")
    other = tar_of(tmp_path / "other.tar.gz", {"a/b.png": b"x"})
    for path in ("text.txt", broken, other, "/dev/null"):
        assert "no data recognise" in error_of(tmp_path / path, DataError)
    for path in ("empty", "nothing.png"):
        assert "is empty" in error_of(tmp_path / path, DataError)


def test_a_damaged_archive_of_the_published_name_is_recognised(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    assert read_as(tmp_path / "cifar-10-python.tar.gz")["name"] == "cifar10"  # which then says what is wrong with it


def test_what_could_be_two_things_is_asked_for(here, tmp_path):
    shutil.copytree(here / "digits-28", tmp_path / "both")
    (tmp_path / "both" / "preview.png").write_bytes(encoded(values(6, 10, 3)))
    told = error_of(tmp_path / "both", ConfigError)
    assert "as folder, mnist" in told
    assert f"mnist:path={tmp_path / 'both'}" in told


def test_what_may_not_be_read_is_named(here, monkeypatch):
    def refuse(cls, path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Folder, "recognises", classmethod(refuse))
    assert "Permission denied" in error_of(here / "photos", DataError)
    assert read_as(here / "a.npy")["name"] == "npy"


class Acme(Data):
    """files that end in acme."""

    name = "acme"
    path: str

    @property
    def event_shape(self):
        return (1, 2, 3)

    @property
    def length(self):
        return 1

    def __getitem__(self, index):
        raise NotImplementedError

    @property
    def fingerprint(self):
        return "acme/1"

    @classmethod
    def recognises(cls, path):
        if path.suffix == ".boom":
            raise RuntimeError("boom")
        return {"path": path} if path.suffix == ".acme" else None


class Third:
    @hookimpl
    def gendiff_components(self) -> list[type[Component]]:
        return [Acme]


def test_data_of_a_plugin_are_recognised_too(tmp_path):
    registry = Registry(plugins=[Plugin(Provider("gendiff-acme", "1", "acme = acme"), Third)])
    (tmp_path / "x.acme").write_text("x")
    (tmp_path / "x.boom").write_text("x")
    assert source(registry, str(tmp_path / "x.acme")) == {"name": "acme", "path": str(tmp_path / "x.acme")}
    with pytest.raises(DataError, match="no data recognise"):
        source(registry, str(tmp_path / "x.boom"))


def test_tolerant_only_where_it_is_needed(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(encoded(values(6, 10, 3, seed=k)))
    data = Folder(path=tmp_path, size=4)
    assert tolerant(data) is data
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left out"):
        assert tolerant(Folder(path=tmp_path, size=4)).length == 3
    missing = Data.model_validate({"name": "npy", "path": str(tmp_path / "missing.npy")})
    with pytest.raises(DataError):
        tolerant(missing)
