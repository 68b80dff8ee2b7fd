"""Data in published forms: every value where it belongs, every damage named, nothing run, unpacked or written."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import multiprocessing
import os
import pickle
import stat
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from importlib.util import find_spec

import lmdb
import numpy as np
import pytest
import torch
from gendiff_plugins.data import cifar10, gendiff_components, huggingface, idx, lsun, lsun_probe, npy
from gendiff_plugins.data import zip as zip_module
from gendiff_plugins.data.cifar10 import Cifar10
from gendiff_plugins.data.folder import Folder
from gendiff_plugins.data.huggingface import HuggingFace
from gendiff_plugins.data.idx import FashionMnist, Mnist
from gendiff_plugins.data.lsun import Lsun
from gendiff_plugins.data.npy import Npy
from gendiff_plugins.data.packed import Packed
from gendiff_plugins.data.zip import Zip
from held import trained_on
from PIL import Image
from published import (
    BATCHES,
    NAMES,
    TRAIN,
    H,
    W,
    as_event,
    cifar_archive,
    cifar_files,
    cifar_folder,
    encoded,
    events,
    idx_folder,
    idx_of,
    key_of,
    lsun_folder,
    pickled,
    pictures,
    tar_of,
    values,
    zip_of,
)

from gendiff.component import summary
from gendiff.datasets.packing import pack
from gendiff.errors import ConfigError, DataError
from gendiff.testing import checks


def error_of(action, kind=DataError):
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert error.what
    assert error.where or error.subject
    assert error.fix
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def patched(content, position, new):
    return content[:position] + new + content[position + len(new) :]


# --- files in the published forms -------------------------------------------------------------------------------------


FAKE = """
import base64, json, pathlib

class Image:
    def __init__(self, decode=True): self.decode = decode

class Value:
    def __init__(self, dtype): self.dtype = dtype

class Features(dict): pass

class Dataset:
    def __init__(self, table, features): self.table, self.features = table, features
    @classmethod
    def from_dict(cls, table, features): return cls(table, features)
    def __len__(self): return len(next(iter(self.table.values())))
    def __getitem__(self, index):
        assert not any(getattr(feature, "decode", False) for feature in self.features.values()), "it would be decoded"
        return {name: column[index] for name, column in self.table.items()}
    def with_format(self, kind): return self
    def select_columns(self, names):
        return Dataset({n: self.table[n] for n in names}, Features({n: self.features[n] for n in names}))
    def cast_column(self, name, feature): return Dataset(self.table, Features({**self.features, name: feature}))
    def save_to_disk(self, path):
        path = pathlib.Path(path); path.mkdir(parents=True)
        text = json.dumps(
            [self.table, {n: type(f).__name__ for n, f in self.features.items()}],
            default=lambda content: {"b": base64.b64encode(content).decode()},
        )
        (path / "state.json").write_text(text)

class DatasetDict(dict):
    def save_to_disk(self, path):
        for name, part in self.items(): part.save_to_disk(pathlib.Path(path) / name)
        (pathlib.Path(path) / "dataset_dict.json").write_text(json.dumps(list(self)))

def load_from_disk(path):
    path = pathlib.Path(path)
    if (path / "dataset_dict.json").exists():
        return DatasetDict({n: load_from_disk(path / n) for n in json.loads((path / "dataset_dict.json").read_text())})
    if not (path / "state.json").exists():
        raise FileNotFoundError(f"Directory {path} is neither a Dataset directory nor a DatasetDict directory.")
    plain = lambda found: base64.b64decode(found["b"]) if set(found) == {"b"} else found
    table, kinds = json.loads((path / "state.json").read_text(), object_hook=plain)
    made = {n: Image() if kind == "Image" else Value("int64") for n, kind in kinds.items()}
    return Dataset(table, Features(made))

def load_dataset(path, split=None, trust_remote_code=None):
    raise ConnectionError(f"Couldn't reach '{path}' on the Hub")
"""


@pytest.fixture
def library(tmp_path_factory, monkeypatch):
    """The library datasets; where it is not installed, a module with what is used of it, found by other processes too."""
    if find_spec("datasets") is None:
        folder = tmp_path_factory.mktemp("fake")
        (folder / "datasets.py").write_text(FAKE)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setitem(sys.modules, "datasets", None)  # so that it is gone after the test
        del sys.modules["datasets"]
    huggingface._loaded.cache_clear()
    return importlib.import_module("datasets")


def rows(library, contents, column="image"):
    """A data set with two columns."""
    table = {"label": list(range(len(contents))), column: [{"bytes": content, "path": None} for content in contents]}
    features = {"label": library.Value("int64"), column: library.Image()}
    return library.Dataset.from_dict(table, features=library.Features(features))


# --- every data component ---------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path, library):
    def make(name):
        root = tmp_path / name
        if name == "cifar10":
            return Cifar10(path=cifar_archive(root))
        if name == "cifar10-binary":
            return Cifar10(path=cifar_folder(root, "binary"), split="test")
        if name == "mnist":
            return Mnist(path=idx_folder(root))
        if name == "fashion-mnist":
            return FashionMnist(path=idx_folder(root), split="test")
        if name == "npy":
            np.save(tmp_path / "a.npy", values(4, H, W, 3))
            return Npy(path=tmp_path / "a.npy")
        if name == "zip":
            return Zip(path=zip_of(tmp_path / "a.zip", pictures(5)), size=(7, 4))
        if name == "packed":
            pack(Zip(path=zip_of(tmp_path / "b.zip", pictures(5)), size=(7, 4)), root)
            return Packed(path=root)
        if name == "lsun":
            return Lsun(path=lsun_folder(root, pictures(5).values()), size=(7, 4))
        rows(library, list(pictures(5).values())).save_to_disk(str(root))
        return HuggingFace(path=root, size=(7, 4))

    return make


def test_manifest_announces_the_classes_as_they_are():
    announced = list(gendiff_components())
    assert set(NAMES) - {"cifar10-binary"} <= {lazy.name for lazy in announced}
    for lazy in announced:
        module, _, name = lazy.target.partition(":")
        component = getattr(importlib.import_module(module), name)
        assert (lazy.kind, lazy.name, lazy.summary) == (component.kind, component.name, summary(component))


@pytest.mark.parametrize("name", NAMES)
def test_conforms(make, name):
    for check in checks(make(name)):
        check()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_trained_on_what_is_held_out(make, name):
    data = make(name)
    numbers, held_out = trained_on(data, 1)
    assert len(held_out) == 1
    assert numbers == set(range(data.length)) - held_out


def tell(every):
    """In another process: what each component gives there, also when it has been used elsewhere before."""
    return [(data.fingerprint, hashlib.sha256(events(data).numpy().tobytes()).hexdigest()) for data in every]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_get_the_same_events(make, method):
    every = [make(name) for name in NAMES]
    here = tell(every)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(tell, [every, every[::-1]]) == [here, here[::-1]]
    assert tell(every) == here


def everything_below(folder):
    found = {path: path.lstat() for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found.items()}


def test_nothing_is_written(make, tmp_path, monkeypatch):
    every = [make(name) for name in NAMES]
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    before = everything_below(tmp_path)
    tell(every)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_does_not_travel(make, name):
    data = make(name)
    events(data)
    assert len(pickle.dumps(data)) < 5000
    with pytest.raises(IndexError):
        data[-1]
    with pytest.raises(IndexError):
        data[data.length]


@pytest.mark.parametrize("component", [Cifar10, Mnist, FashionMnist, Npy, Zip, Lsun, HuggingFace, Packed])
def test_what_is_missing_is_named(component, tmp_path, library):
    data = component(path=tmp_path / "no such thing")  # constructing reads nothing
    error = error_of(lambda: data.event_shape)
    assert "no such thing" in error.what
    assert error_of(lambda: data.length).exit_code == 4
    nobody = component(path="~no-such-user-here/x")
    assert "~no-such-user-here" in error_of(lambda: nobody.length).what


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def test_the_pickles_here_are_what_numpy_reads():
    table = pickle.loads(pickled(BATCHES["test_batch"], [3, 9]), encoding="bytes")
    assert np.array_equal(table[b"data"], BATCHES["test_batch"])
    assert table[b"labels"] == [3, 9]


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar_is_the_same_in_every_form(tmp_path, form):
    archive, folder = cifar_archive(tmp_path / "archive", form), cifar_folder(tmp_path / "folder", form)
    plain = tmp_path / "plain.tar"
    plain.write_bytes(gzip.decompress(archive.read_bytes()))
    places = [archive, archive.parent, folder, folder.parent, plain]
    for path in places:
        data = Cifar10(path=path)
        assert data.event_shape == (3, 32, 32)
        assert data.length == 10
        assert torch.equal(events(data), torch.from_numpy(TRAIN).to(torch.float32) / 127.5 - 1)
        test = Cifar10(path=path, split="test")
        assert torch.equal(test[1], torch.from_numpy(BATCHES["test_batch"][1].reshape(3, 32, 32)) / 127.5 - 1)
        assert test.fingerprint.startswith("cifar10/1 test 2 pictures ")
    other = "binary" if form == "python" else "python"
    prints = {Cifar10(path=path).fingerprint for path in (*places, cifar_archive(tmp_path / "other", other))}
    assert len(prints) == 1
    assert prints != {Cifar10(path=archive, split="test").fingerprint}


def test_cifar_pickled_again_by_python_3(tmp_path):
    folder = cifar_folder(tmp_path)
    for protocol in (2, 3, 4):
        table = {b"data": BATCHES["data_batch_2"], b"labels": [3, 9], "note": None}
        (folder / "test_batch").write_bytes(pickle.dumps(table, protocol=protocol))
        data = Cifar10(path=folder, split="test")
        assert torch.equal(data[0], torch.from_numpy(TRAIN[2]).to(torch.float32) / 127.5 - 1), protocol


def test_cifar_fingerprint_follows_the_content(tmp_path):
    folder = cifar_folder(tmp_path)
    before = Cifar10(path=folder).fingerprint
    (folder / "data_batch_3").write_bytes(pickled(BATCHES["data_batch_3"] ^ 1, [3, 9]))
    assert Cifar10(path=folder).fingerprint != before


class Runs:
    """Pickled, it is an order to run a command."""

    def __init__(self, function, *arguments):
        self.order = function, arguments

    def __reduce__(self):
        return self.order


def malicious(flag):
    touch = f"touch {flag}"
    yield "posix.system", pickle.dumps(Runs(os.system, touch), 2)
    yield "posix.system", pickle.dumps({b"data": Runs(os.system, touch), b"labels": [1]}, 4)
    yield "eval", pickle.dumps(Runs(eval, f"open({str(flag)!r}, 'w')"), 2)
    yield "STRING", b"(S'" + touch.encode() + b"'\nios\nsystem\n."
    yield "INST", b"(U\x01aios\nsystem\n."
    yield "OBJ", b"(cos\nsystem\nX" + struct.pack("<I", len(touch)) + touch.encode() + b"o."
    yield "runstring", b"cnumpy.testing._private.utils\nrunstring\n(U\x01aU\x01bt\x85R."
    yield "__import__", b"\x80\x04\x8c\x08builtins\x8c\x0a__import__\x93\x8c\x02os\x85R."
    yield "numpy.load", b"\x80\x02cnumpy\nload\nU\x01a\x85R."
    yield "numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    yield "EXT1", b"\x80\x02\x82\x01."
    yield "PERSID", b"Pid\n."
    yield "NEWOBJ", b"\x80\x02cnumpy\nndarray\n)\x81."


def test_a_malicious_pickle_runs_nothing(tmp_path):
    folder, flag = cifar_folder(tmp_path), tmp_path / "flag"
    for word, content in malicious(flag):
        (folder / "test_batch").write_bytes(content)
        error = error_of(lambda: Cifar10(path=folder, split="test").length)
        assert "test_batch" in error.what
        assert word in str(error), (word, str(error))
        assert "not run" in str(error)
        assert not flag.exists()


def test_a_pickle_that_claims_much_memory_is_not_read(tmp_path, monkeypatch):
    folder = cifar_folder(tmp_path)
    monkeypatch.setattr(cifar10, "MOST_OPCODES", 1000)
    bombs = [
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.",
        b"\x80\x02(" + b"}" * 2000 + b"t.",
    ]
    for content in bombs:
        (folder / "test_batch").write_bytes(content)
        assert "memory" in str(error_of(lambda: Cifar10(path=folder, split="test").length))


def test_a_pickle_cannot_change_how_the_next_is_read(tmp_path):
    folder = cifar_folder(tmp_path)
    attempts = [  # to set an attribute of a stand-in, and to call one with nonsense
        b"\x80\x02cnumpy\nndarray\nN}U\x0c__setstate__K\x01s\x86b.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__)s\x86b.",
        b"\x80\x02c_codecs\nencode\nK\x01\x85R.",
        b"\x80\x02cnumpy\ndtype\n)R}b.",
    ]
    whole = (folder / "test_batch").read_bytes()
    for content in attempts:
        (folder / "test_batch").write_bytes(content)
        error_of(lambda: Cifar10(path=folder, split="test").length)
        (folder / "test_batch").write_bytes(whole)
        assert Cifar10(path=folder, split="test").length == 2


def damaged_batches():
    whole, pixels = pickled(BATCHES["test_batch"], [3, 9]), BATCHES["test_batch"]
    yield "empty", b""
    yield "", whole[:-100]
    yield "", whole[:3000]
    yield "", b"a text, and no pickle"
    yield "no table", b"\x80\x02]."
    yield "no data and labels", pickle.dumps({b"data": pixels, b"fine_labels": [1, 2]}, 2)  # CIFAR-100
    yield "shape", pickled(pixels, [3, 9, 1])
    yield "shape", pickled(pixels, [])
    yield "shape", pickle.dumps({"data": pixels.reshape(4, -1), "labels": [1] * 4}, 2)
    yield "8-bit", pickle.dumps({"data": pixels.astype(np.int64), "labels": [1, 2]}, 2)
    yield "8-bit", pickle.dumps({"data": np.array([{}, []], dtype=object), "labels": [1, 2]}, 2)
    yield "no array", pickle.dumps({"data": [1, 2], "labels": [1, 2]}, 2)
    yield "row by row", pickle.dumps({"data": np.asfortranarray(pixels), "labels": [1, 2]}, 2)


def test_a_damaged_batch_is_named(tmp_path):
    folder = cifar_folder(tmp_path)
    for word, content in damaged_batches():
        (folder / "test_batch").write_bytes(content)
        error = error_of(lambda: Cifar10(path=folder, split="test").event_shape)
        assert "test_batch" in error.what
        assert str(folder) in error.where
        assert word in str(error), (word, str(error))
    assert Cifar10(path=folder).length == 10


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    folder, random = cifar_folder(tmp_path), np.random.default_rng(0)
    whole = pickled(BATCHES["test_batch"], [3, 9])
    outside = [k for k in range(len(whole)) if not 300 < k < 6300]  # not among the pixels
    named = 0
    for _ in range(300):
        content = bytearray(whole)
        for position in random.choice(outside, 2):
            content[position] ^= 1 << int(random.integers(8))
        (folder / "test_batch").write_bytes(content)
        try:
            assert Cifar10(path=folder, split="test")[0].shape == (3, 32, 32)
        except DataError as error:
            assert "test_batch" in error.what
            named += 1
    assert named > 100


def test_a_damaged_binary_batch_is_named(tmp_path):
    folder = cifar_folder(tmp_path, "binary")
    whole = (folder / "test_batch.bin").read_bytes()
    damages = {"records": whole[:-1], "empty": b"", "label": patched(whole, 0, b"\x0a")}
    for word, content in damages.items():
        (folder / "test_batch.bin").write_bytes(content)
        error = error_of(lambda: Cifar10(path=folder, split="test").length)
        assert "test_batch.bin" in error.what
        assert word in str(error)


def test_an_incomplete_cifar_says_what_is_missing(tmp_path):
    folder = cifar_folder(tmp_path)
    (folder / "data_batch_4").unlink()
    assert "data_batch_4" in error_of(lambda: Cifar10(path=tmp_path).length).what
    archive = tar_of(tmp_path / "a.tar.gz", {"x/data_batch_1": pickled(BATCHES["data_batch_1"], [3, 9])})
    assert "data_batch_2, data_batch_3" in error_of(lambda: Cifar10(path=archive).length).what
    (tmp_path / "empty").mkdir()
    error = error_of(lambda: Cifar10(path=tmp_path / "empty").length)
    assert "cifar-10-python.tar.gz" in str(error)
    os.mkfifo(folder / "data_batch_4")
    assert "not a regular file" in str(error_of(lambda: Cifar10(path=folder).length))


def test_a_damaged_archive_is_named(tmp_path):
    whole = cifar_archive(tmp_path).read_bytes()
    short = gzip.compress(gzip.decompress(whole)[:5000])
    damages = {
        "cut": whole[: len(whole) // 2],
        "flipped": patched(whole, len(whole) // 2, bytes(200)),
        "short": short,
        "text": b"a text",
        "empty": b"",
        "gz": gzip.compress(b"a text"),
        "magic": whole[:2],
    }
    for word, content in damages.items():
        path = tmp_path / f"{word}.tar.gz"
        path.write_bytes(content)
        error = error_of(lambda path=path: Cifar10(path=path).length)
        assert path.name in error.what + error.where


@pytest.mark.parametrize("name", ["../data_batch_1", "/tmp/data_batch_1", "a/../../x", "/etc/x"])
def test_paths_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    files = {f"cifar/{batch}": content for batch, content in cifar_files("python").items()}
    archive = tar_of(tmp_path / "a.tar.gz", {**files, name: b"x"})
    error = error_of(lambda: Cifar10(path=archive).length)
    assert "leads out" in str(error)
    assert name in str(error)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_an_archive_are_not_followed(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, content in cifar_files("python").items():
            member = tarfile.TarInfo(f"cifar/{name}")
            if name == "test_batch":
                member.type, member.linkname = kind, "cifar/data_batch_1"
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    error = error_of(lambda: Cifar10(path=tmp_path / "a.tar.gz", split="test").length)
    assert "cifar/test_batch" in error.what
    assert "links are not followed" in str(error)


def test_an_archive_that_holds_a_batch_twice_is_refused(tmp_path):
    files = {f"{folder}/{name}": content for folder in "ab" for name, content in cifar_files("python").items()}
    assert "twice" in str(error_of(lambda: Cifar10(path=tar_of(tmp_path / "a.tar.gz", files)).length))


def test_an_archive_may_not_unpack_to_more_than_cifar(tmp_path, monkeypatch):
    files = cifar_files("python")
    archive = tar_of(tmp_path / "a.tar.gz", {"cifar/zeros": bytes(2**20), **files})
    long_name = tar_of(tmp_path / "b.tar.gz", {"x" * 300_000: b"", **files})
    assert Cifar10(path=archive).length == Cifar10(path=long_name).length == 10
    cifar10._read.cache_clear()
    monkeypatch.setattr(cifar10, "MOST_UNPACKED", 200_000)
    for path in (archive, long_name):
        assert "unpacks to more than 200,000 bytes" in str(error_of(lambda path=path: Cifar10(path=path).length))
    monkeypatch.setattr(cifar10, "MOST_BYTES", 5000)
    assert "more than 5,000 bytes" in str(error_of(lambda: Cifar10(path=tar_of(tmp_path / "c.tar.gz", files)).length))


# --- MNIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("component", "below"), [(Mnist, "MNIST/raw"), (FashionMnist, "FashionMNIST/raw")])
def test_idx_keeps_every_value(tmp_path, component, below):
    v = values(4, 28, 28, seed=7)
    (tmp_path / below).parent.mkdir()
    idx_folder(tmp_path / below, v)
    for path in (tmp_path, tmp_path / below):
        for split, expected in (("train", v), ("test", v[::-1])):
            data = component(path=path, split=split)
            assert data.event_shape == (1, 28, 28)
            assert torch.equal(events(data), torch.from_numpy(expected.copy())[:, None].to(torch.float32) / 127.5 - 1)
    prints = {component(path=tmp_path, split=split).fingerprint for split in ("train", "test")}
    assert len(prints) == 2
    (tmp_path / below / "train-images-idx3-ubyte").write_bytes(idx_of(v ^ 1))  # found before the compressed one
    assert component(path=tmp_path).fingerprint not in prints


def test_mnist_and_fashion_are_told_apart(tmp_path):
    folder = idx_folder(tmp_path)
    assert Mnist(path=folder).fingerprint.split()[-1] == FashionMnist(path=folder).fingerprint.split()[-1]
    assert Mnist(path=folder).fingerprint != FashionMnist(path=folder).fingerprint


def test_idx_of_other_sizes_and_names(tmp_path):
    v = values(3, 5, 9)
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx_of(v))
    data = Mnist(path=tmp_path)
    assert data.event_shape == (1, 5, 9)
    assert torch.equal(data[2][0], torch.from_numpy(v[2]).to(torch.float32) / 127.5 - 1)


def idx_damages():
    whole = idx_of(values(4, 28, 28))
    yield "4 pictures of 28x28", whole[:-1]
    yield "more than these", whole + b"\0"
    yield "0x00000801", patched(whole, 0, struct.pack(">I", 0x801))  # the labels
    yield "0x00000803", b"a text, and no idx file at all"
    yield "header", whole[:10]
    yield "0 bytes", b""
    yield "more than the file can hold", patched(whole, 4, struct.pack(">I", 2**31))
    yield "more than the file can hold", patched(whole, 4, struct.pack(">III", 2**32 - 1, 2**32 - 1, 2**32 - 1))
    yield "4 pictures of 28x0", patched(whole, 12, struct.pack(">I", 0))


def test_a_damaged_idx_file_is_named(tmp_path):
    idx_folder(tmp_path)
    for word, content in idx_damages():
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
        error = error_of(lambda: Mnist(path=tmp_path, split="test").event_shape)
        assert "t10k-images-idx3-ubyte" in error.what
        assert str(tmp_path) in error.where
        if content:
            (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
            packed = error_of(lambda: Mnist(path=tmp_path).length)
            assert "train-images-idx3-ubyte.gz" in packed.what
        assert word in str(error), (word, str(error))


def test_damaged_compression_is_named(tmp_path):
    file = idx_folder(tmp_path) / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for content in (whole[:-20], whole[:5], patched(whole, 300, bytes(50)), patched(whole, len(whole) - 8, b"1234")):
        file.write_bytes(content)
        assert file.name in error_of(lambda: Mnist(path=tmp_path).length).what


def test_idx_does_not_trust_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "MOST_BYTES", 3000)
    idx_folder(tmp_path)
    assert "more than the file can hold" in str(error_of(lambda: Mnist(path=tmp_path, split="test").length))


def test_idx_folder_without_the_files(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert "train-images-idx3-ubyte" in error_of(lambda: Mnist(path=tmp_path).length).what
    error = error_of(lambda: Mnist(path=tmp_path / "notes.txt").length)
    assert "is a file" in error.what
    assert str(tmp_path) in error.fix


# --- npy --------------------------------------------------------------------------------------------------------------


def saved(path, array):
    np.save(path, array)
    return path


def test_npy_keeps_every_value_in_every_layout(tmp_path):
    v = values(5, H, W, 3)
    expected = torch.stack([as_event(picture) for picture in v])
    forms = {
        "nhwc": v,
        "nchw": v.transpose(0, 3, 1, 2),
        "columns": np.asfortranarray(v),
        "double": (v / 127.5 - 1),
        "big": (v / 127.5 - 1).astype(">f4"),
    }
    for name, array in forms.items():
        data = Npy(path=saved(tmp_path / f"{name}.npy", array))
        assert data.event_shape == (3, H, W)
        assert torch.allclose(events(data), expected, atol=1e-6), name
        layout = "nchw" if name == "nchw" else "nhwc"
        assert torch.equal(events(Npy(path=data.path, layout=layout)), events(data))
    grey = Npy(path=saved(tmp_path / "grey.npy", v[..., 0]))
    assert grey.event_shape == (1, H, W)
    assert torch.equal(events(grey), expected[:, :1])
    many = Npy(path=saved(tmp_path / "many.npy", v.transpose(0, 2, 3, 1)), layout="nchw")
    assert many.event_shape == (W, 3, H)
    assert torch.equal(many[1], expected[1].permute(2, 0, 1))
    assert torch.equal(events(Npy(path=tmp_path / "nhwc.npy")), expected)


def test_npy_bounds(tmp_path):
    v = values(3, H, W)
    unit = saved(tmp_path / "unit.npy", (v / 255).astype(np.float32))
    expected = torch.from_numpy(v)[:, None].to(torch.float32) / 127.5 - 1
    assert torch.allclose(events(Npy(path=unit, bounds=(0, 1))), expected, atol=1e-6)
    few = saved(tmp_path / "few.npy", (v // 16).astype(np.uint8))
    x = Npy(path=few, bounds=(0, 15))[0]
    assert torch.allclose(x[0], torch.from_numpy(v[0] // 16).float() / 7.5 - 1)
    assert Npy.model_validate(Npy(path=few, bounds=(0, 15)).spec) == Npy(path=few, bounds=(0, 15))
    for bad in ((1, 0), (0, 0)):
        with pytest.raises(ConfigError, match="low"):
            Npy(path=few, bounds=bad)


def test_npy_values_that_cannot_be_are_named(tmp_path):
    v = np.zeros((3, H, W), np.float32)
    v[1, 0, 0], v[2, 0, 0] = np.nan, 255
    data = Npy(path=saved(tmp_path / "a.npy", v))
    assert data[0].eq(0).all()
    assert "not finite" in str(error_of(lambda: data[1]))
    error = error_of(lambda: data[2])
    assert "picture 2 of 'a.npy'" in error.what
    assert "255" in str(error)
    assert "bounds" in error.fix


def test_npy_fingerprint_follows_content_and_parameters(tmp_path):
    v = values(4, 3, 4, 3)
    a, b = saved(tmp_path / "a.npy", v), saved(tmp_path / "b.npy", v)
    changed = saved(tmp_path / "c.npy", patched_array(v, (2, 1, 1, 1)))
    variants = [{"layout": "nhwc"}, {"layout": "nchw"}, {"layout": "nhwc", "bounds": (0, 256)}]
    prints = {Npy(path=a, **variant).fingerprint for variant in variants}
    assert len(prints) == 3
    assert {Npy(path=b, **variant).fingerprint for variant in variants} == prints
    assert Npy(path=changed, layout="nhwc").fingerprint not in prints


def patched_array(array, where):
    array = array.copy()
    array[where] ^= 1
    return array


def test_npy_fingerprint_of_a_large_array_samples_it(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "HASHED_WHOLE", 100)
    monkeypatch.setattr(npy, "PART", 16)
    monkeypatch.setattr(npy, "PARTS", 3)
    v = values(8, 4, 8)
    prints = {Npy(path=saved(tmp_path / "a.npy", v)).fingerprint}
    for number, where in enumerate([(0, 0, 3), (7, 3, 7), (4, 0, 0)]):  # at the start, the end and the middle
        prints.add(Npy(path=saved(tmp_path / f"{number}.npy", patched_array(v, where))).fingerprint)
    assert len(prints) == 4


def test_npy_asks_for_the_layout_where_it_is_not_clear(tmp_path):
    for shape in ((5, 3, 4, 4), (5, 8, 9, 10)):
        path = saved(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        error = error_of(lambda path=path: Npy(path=path).event_shape)
        assert str(shape) in str(error)
        assert error.subject == "data.layout"
        assert Npy(path=path, layout="nchw").event_shape == shape[1:]
    assert "3 axes" in error_of(lambda: Npy(path=path, layout="nhw").event_shape).what


def test_npy_of_another_kind_is_refused(tmp_path):
    arrays = {
        "objects": np.array([[[{}]]], dtype=object),
        "int64": np.zeros((2, 3, 4), np.int64),
        "complex": np.zeros((2, 3, 4), complex),
        "(2, 3)": np.zeros((2, 3), np.uint8),
        "(0, 3, 4)": np.zeros((0, 3, 4), np.uint8),
        "(2, 3, 0)": np.zeros((2, 3, 0), np.uint8),
        "[('a'": np.zeros((2, 3, 4), [("a", "u1")]),
    }
    for word, array in arrays.items():
        path = saved(tmp_path / "a.npy", array)
        error = error_of(lambda path=path: Npy(path=path).length)
        assert "a.npy" in error.what
        assert word in str(error), (word, str(error))


def test_a_damaged_npy_is_named(tmp_path):
    whole = saved(tmp_path / "whole.npy", values(5, H, W)).read_bytes()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**15, H, W)}
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, header)
    damages = {
        "299 follow": whole[:-1],
        "follow": huge.getvalue() + bytes(100),
        "0 bytes": b"",
        "another kind of file": b"a text",
        "savez": zip_of(tmp_path / "z.zip", {"a": b"x"}).read_bytes(),
        "longer than the file": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
        "version 9.9": patched(whole, 6, b"\x09\x09"),
        "cannot be read": patched(whole, 10, b"{" * 60),
        "header cannot": patched(whole, 10, b"\xff" * 20),
    }
    for word, content in damages.items():
        (tmp_path / "a.npy").write_bytes(content)
        error = error_of(lambda: Npy(path=tmp_path / "a.npy").event_shape)
        assert "a.npy" in error.what
        assert word in str(error), (word, str(error))
    assert "not a regular file" in str(error_of(lambda: Npy(path=tmp_path).length))


def test_npy_cut_off_while_it_is_used(tmp_path):
    path = saved(tmp_path / "a.npy", values(500, 32, 32))
    data = Npy(path=path)
    assert data[499].shape == (1, 32, 32)
    with path.open("r+b") as file:
        file.truncate(5000)
    assert "a.npy" in error_of(lambda: data[499]).what  # and the process goes on


# --- zip --------------------------------------------------------------------------------------------------------------


def test_zip_is_the_folder_it_was_made_of(tmp_path):
    files = {"b.PNG": 0, "a/z.jpg": 1, "a.png": 0, "a/b/c.Tiff": 2, "é.bmp": 3, "d e.webp": 4}
    contents = {}
    for k, (name, form) in enumerate(files.items()):
        contents[name] = encoded(values(20 + k, 30, 3, seed=k), ["PNG", "JPEG", "TIFF", "BMP", "WEBP"][form])
    other = {".hidden.png": b"x", "__MACOSX/._a.png": b"x", ".cache/x.png": b"x", "notes.txt": b"x", "png": b"x"}
    for name, content in {**contents, **other}.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(content)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = zip_of(tmp_path / f"{method}.zip", {"a/": b"", **contents, **other}, method)
        for parameters in ({"size": (7, 4)}, {"size": 9, "channels": 1, "crop": "center"}):
            data, folder = Zip(path=archive, **parameters), Folder(path=tmp_path / "f", **parameters)
            assert data._names == folder._names
            assert data.event_shape == folder.event_shape
            assert torch.equal(events(data), events(folder))


def test_zip_keeps_every_value(tmp_path):
    v = values(H, W, 3)
    assert torch.equal(Zip(path=zip_of(tmp_path / "a.zip", {"a.png": encoded(v)}), size=(H, W))[0], as_event(v))


def test_zip_fingerprint_follows_content_names_and_parameters(tmp_path):
    def fingerprint(files, **parameters):
        return Zip(path=zip_of(tmp_path / "a.zip", files), **{"size": (H, W), **parameters}).fingerprint

    picture, other = encoded(values(H, W, 3)), encoded(values(H, W, 3) ^ 1)
    one = fingerprint({"a.png": picture})
    assert fingerprint({"notes.txt": b"x", "a.png": picture}) == one
    changes = [fingerprint({"b.png": picture}), fingerprint({"a.png": other}), fingerprint({"a.png": picture}, size=8)]
    changes += [fingerprint({"a.png": picture}, channels=1), fingerprint({"a.png": picture}, crop="center")]
    assert len({one, *changes}) == 6


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "..\\a.png", "C:\\a.png", "/etc/notes.txt"])
def test_paths_that_lead_out_of_a_zip_are_refused(tmp_path, name):
    archive = zip_of(tmp_path / "a.zip", {"x.png": encoded(values(H, W, 3)), name: b"x"})
    error = error_of(lambda: Zip(path=archive).length)
    assert name in error.what
    assert "leads out" in error.what


def bad_member(archive, kind):
    """Write a bad picture into an archive; return a word that the message must have."""
    info = zipfile.ZipInfo("bad.png")
    if kind == "link":
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        return "link"
    if kind == "method":
        info.compress_type = zipfile.ZIP_LZMA
        archive.writestr(info, encoded(values(H, W, 3)))
        return "method 14"
    content = {"empty": b"", "text": b"this is not a picture", "large": b"\x89PNG" + bytes(5000)}[kind]
    archive.writestr(info, content)
    return {"empty": "0 bytes", "text": "not an image", "large": "more than the limit of 1,000"}[kind]


@pytest.mark.parametrize("kind", ["link", "method", "empty", "text", "large"])
def test_a_bad_picture_in_a_zip_is_named_or_skipped(tmp_path, monkeypatch, kind):
    v = values(H, W, 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", encoded(v))
        word = bad_member(archive, kind)
        archive.writestr("z.png", encoded(v ^ 1))
    if kind == "large":
        monkeypatch.setattr(zip_module, "MOST_BYTES", 1000)
    error = error_of(lambda: Zip(path=tmp_path / "a.zip").event_shape)
    assert error.what == "1 of 3 image files cannot be read"
    assert any("bad.png" in line and word in line for line in error.details), error.details
    data = Zip(path=tmp_path / "a.zip", size=(H, W), on_bad_image="skip")
    with pytest.warns(UserWarning, match=r"1 of 3 image files cannot be read and are left out"):
        assert data.length == 2
    assert torch.equal(data[1], as_event(v ^ 1))
    ((name, why),) = data.skipped
    assert name == "bad.png"
    assert word in why


def test_an_encrypted_picture_is_named(tmp_path):
    content = bytearray(zip_of(tmp_path / "a.zip", {"a.png": encoded(values(H, W, 3))}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    assert "a.png: it is encrypted" in str(error_of(lambda: Zip(path=tmp_path / "a.zip").length))


def test_damage_inside_a_zip_is_named_when_wanted(tmp_path):
    for form in ("png", "jpeg"):
        picture = encoded(values(90, 90, 3), form)
        whole = zip_of(tmp_path / f"{form}.zip", {f"x/a.{form}": picture}, zipfile.ZIP_STORED).read_bytes()
        (tmp_path / f"{form}.zip").write_bytes(patched(whole, len(whole) // 2, b"\x01\x02\x03"))
        error = error_of(lambda form=form: events(Zip(path=tmp_path / f"{form}.zip")))
        assert f"x/a.{form}" in str(error)


def test_a_zip_bomb_is_refused_without_unpacking_it(tmp_path, monkeypatch):
    """A file that says it is small, and unpacks to much more, is read no further than it says."""
    bomb = zip_of(tmp_path / "a.zip", {"a.png": encoded(values(H, W, 3)) + bytes(2**26)}).read_bytes()
    content = bytearray(bomb)
    for start, field in ((bomb.index(b"PK\x03\x04"), 22), (bomb.index(b"PK\x01\x02"), 24)):
        content[start + field : start + field + 4] = struct.pack("<I", 500)
    (tmp_path / "a.zip").write_bytes(content)
    tracemalloc.start()
    assert "a.png" in str(error_of(lambda: events(Zip(path=tmp_path / "a.zip"))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    zip_of(tmp_path / "b.zip", {"a.png": encoded(values(H, W, 3))})
    assert "10x6 pixels" in str(error_of(lambda: Zip(path=tmp_path / "b.zip").length))


def test_a_header_far_inside_is_found(tmp_path):
    v = values(200, 200, 3)
    tiff = encoded(v, "TIFF")  # Pillow writes its directory first, others last
    (offset,) = struct.unpack("<I", tiff[4:8])
    count = struct.unpack("<H", tiff[offset : offset + 2])[0]
    directory = tiff[offset : offset + 2 + 12 * count + 4]
    last = patched(tiff, 4, struct.pack("<I", len(tiff))) + directory
    assert len(last) > zip_module.HEAD
    archive = zip_of(tmp_path / "a.zip", {"a.tif": last, "b.webp": encoded(v, "WEBP", lossless=True)})
    data = Zip(path=archive, size=200)
    assert torch.equal(data[0], as_event(v))
    assert torch.equal(data[1], as_event(v))


def test_a_damaged_zip_is_named(tmp_path):
    whole = zip_of(tmp_path / "whole.zip", pictures()).read_bytes()
    damages = [whole[:-30], whole[: len(whole) // 2], b"a text", b"", patched(whole, len(whole) - 10, b"\xff" * 4)]
    for content in damages:
        (tmp_path / "a.zip").write_bytes(content)
        assert "a.zip" in error_of(lambda: Zip(path=tmp_path / "a.zip").event_shape).what
    assert "is a folder" in error_of(lambda: Zip(path=tmp_path).length).what
    assert "the archive is empty" in error_of(lambda: Zip(path=zip_of(tmp_path / "e.zip", {})).length).what
    error = error_of(lambda: Zip(path=zip_of(tmp_path / "t.zip", {"a.txt": b"", "b.txt": b"", "c/d.md": b""})).length)
    assert "among the 3 files" in error.what
    assert ".txt (2), .md (1)" in str(error)


def test_flipped_bytes_in_a_zip_never_escape_as_another_error(tmp_path):
    whole, random = zip_of(tmp_path / "whole.zip", pictures()).read_bytes(), np.random.default_rng(0)
    named = 0
    for _ in range(100):
        content = bytearray(whole)
        for position in random.integers(0, len(whole), 3):
            content[position] ^= 1 << int(random.integers(8))
        (tmp_path / "a.zip").write_bytes(content)
        try:
            assert events(Zip(path=tmp_path / "a.zip", size=(H, W))).shape[1:] == (3, H, W)
        except DataError:
            named += 1
    assert named > 50


def test_a_zip_is_opened_once_per_process(tmp_path, monkeypatch):
    archive = zip_of(tmp_path / "a.zip", pictures())
    opened = []
    made = zipfile.ZipFile
    monkeypatch.setattr(zip_module.zipfile, "ZipFile", lambda path: opened.append(path) or made(path))
    one, two = Zip(path=archive, size=5), Zip(path=archive, size=6)
    events(one), events(two), events(one)
    assert len(opened) == 1


# --- LSUN -------------------------------------------------------------------------------------------------------------


def test_lsun_is_in_the_order_of_its_keys(tmp_path):
    contents = list(pictures(7).values())
    folder = lsun_folder(tmp_path / "church_outdoor_train_lmdb", contents)
    (tmp_path / "f").mkdir()
    for content in contents:
        (tmp_path / "f" / f"{key_of(content).decode()}.png").write_bytes(content)  # what it is, Pillow sees by itself
    for parameters in ({"size": (7, 4)}, {"size": 5, "crop": "center"}, {"size": 5, "channels": 1}):
        data, files = Lsun(path=folder, **parameters), Folder(path=tmp_path / "f", **parameters)
        assert data.event_shape == files.event_shape
        assert data.length == 7
        assert torch.equal(events(data), events(files))
    assert Lsun(path=folder).crop == "none"


def test_lsun_keeps_every_value(tmp_path):
    v = values(H, W, 3)
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = Lsun(path=lsun_folder(tmp_path / form, [encoded(v, form, **options)]), size=(H, W))
        assert torch.equal(data[0], as_event(v))


def test_lsun_keys_of_any_length(tmp_path):
    with lmdb.open(str(tmp_path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for k in range(300):
            transaction.put(bytes([k % 256]) * (1 + k % 7) + bytes(k % 3), encoded(values(2, 2, seed=k)))
        n = transaction.stat()["entries"]
    data = Lsun(path=tmp_path, size=2)
    assert data.length == n
    found = [data._keys[index] for index in range(n)]
    assert found == sorted(found)
    assert len(set(found)) == n
    assert torch.isfinite(events(data)).all()


def test_lsun_fingerprint_follows_content_and_parameters(tmp_path):
    contents = list(pictures(4).values())
    one = Lsun(path=lsun_folder(tmp_path / "one", contents))
    again = Lsun(path=lsun_folder(tmp_path / "again", contents[::-1]))
    assert one.fingerprint == again.fingerprint
    assert torch.equal(events(one), events(again))
    fewer = Lsun(path=lsun_folder(tmp_path / "fewer", contents[:-1]))
    lsun_folder(tmp_path / "changed", contents)
    with (
        lmdb.open(str(tmp_path / "changed"), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        changed = bytearray(contents[0])
        changed[-1] ^= 1
        transaction.put(key_of(contents[0]), bytes(changed))
    prints = [one.fingerprint, fewer.fingerprint, Lsun(path=tmp_path / "changed").fingerprint]
    prints += [Lsun(path=tmp_path / "one", **p).fingerprint for p in ({"size": 9}, {"channels": 1}, {"crop": "center"})]
    assert len(set(prints)) == 6


def test_lsun_without_lmdb_says_how_to_get_it(tmp_path, monkeypatch):
    data = Lsun(path=lsun_folder(tmp_path / "a", pictures().values()))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    error = error_of(lambda: data.event_shape, ConfigError)
    assert "lmdb" in error.what
    assert "pip install 'gendiff[lsun]'" in error.fix


def test_a_damaged_picture_in_lsun_is_named_by_its_key(tmp_path):
    whole = encoded(values(60, 60, 3), "JPEG")
    contents = [whole[:500], b"a text", b"", encoded(values(H, W, 3))]
    data = Lsun(path=lsun_folder(tmp_path / "a", contents), size=8)
    assert data.length == 4
    bad = 0
    for index in range(4):
        if data._keys[index].decode() == key_of(contents[3]).decode():
            assert data[index].shape == (3, 8, 8)
            continue
        error = error_of(lambda index=index: data[index])
        assert data._keys[index].decode() in error.what
        bad += 1
    assert bad == 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # Pillow says so too
def test_a_bomb_in_lsun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = Lsun(path=lsun_folder(tmp_path / "a", [encoded(values(H, W, 3))]))
    assert "10x6 pixels" in str(error_of(lambda: data[0]))
    monkeypatch.setattr(lsun, "MOST_BYTES", 100)
    assert "more than the limit of 100" in str(error_of(lambda: Lsun(path=tmp_path / "a").length))


def test_a_damaged_lmdb_is_named(tmp_path):
    folder = lsun_folder(tmp_path / "a", [encoded(values(60, 60, 3, seed=k)) for k in range(10)])
    file = folder / "data.mdb"
    whole = file.read_bytes()
    damages = {
        "its header tells of": whole[: len(whole) // 2],
        "header tells of": whole[:-4096],
        "": b"a text" * 5000,
        "0 bytes": b"",
    }
    for word, content in damages.items():
        file.write_bytes(content)
        error = error_of(lambda: Lsun(path=folder).event_shape)
        assert "LMDB database 'a'" in error.what
        assert word in str(error), (word, str(error))
    error = error_of(lambda: Lsun(path=file).length)
    assert str(folder) in error.fix
    file.unlink()
    assert "data.mdb" in error_of(lambda: Lsun(path=folder).length).what
    os.mkfifo(file)
    assert "not a regular file" in str(error_of(lambda: Lsun(path=folder).length))
    empty = lsun_folder(tmp_path / "empty", [])
    assert "no pictures" in str(error_of(lambda: Lsun(path=empty).length))


@pytest.mark.parametrize("sampled", [256, 0])
def test_a_database_that_ends_its_reader_does_not_end_us(tmp_path, monkeypatch, sampled):
    """A record that says it reaches far beyond the file: to read it is a bus error or a segmentation fault."""
    contents = [encoded(values(60, 60, 3, seed=k)) for k in range(10)]
    file = lsun_folder(tmp_path / "a", contents) / "data.mdb"
    content = file.read_bytes()
    key = key_of(contents[4])
    position = content.index(key)
    while position >= 0:  # also in pages that are no longer used
        content = patched(content, position - 8, struct.pack("<HH", 0, 900))  # 59 million bytes
        position = content.find(key, position + 1)
    file.write_bytes(content)
    monkeypatch.setattr(lsun, "SAMPLED", sampled)
    error = error_of(lambda: Lsun(path=tmp_path / "a").length)
    assert "ended the process with SIG" in str(error)
    assert "LMDB database 'a'" in error.what


def test_flipped_pages_of_a_database_are_found(tmp_path):
    """Whatever is damaged, the answer is an event or a `DataError`."""
    contents = [encoded(values(20, 20, 3, seed=k)) for k in range(150)]
    folder = lsun_folder(tmp_path / "a", contents)
    whole, random = (folder / "data.mdb").read_bytes(), np.random.default_rng(0)
    tree = [page for page in range(2, len(whole) // 4096) if whole[page * 4096 + 10] & 3]  # branches and leaves
    for _ in range(12):
        content = bytearray(whole)
        page = 4096 * int(random.choice(tree))
        for position in (*random.integers(0, 100, 2), *random.integers(100, 4096, 20)):
            content[page + position] ^= 1 << int(random.integers(8))
        (folder / "data.mdb").write_bytes(content)
        data = Lsun(path=folder, size=4)
        try:
            for index in range(data.length):
                try:
                    assert data[index].shape == (3, 4, 4)
                except DataError as error:
                    assert "picture" in error.what
        except DataError as error:
            assert "LMDB database" in error.what


def test_a_probe_that_fails_otherwise_is_told(tmp_path, monkeypatch):
    folder = lsun_folder(tmp_path / "a", pictures().values())
    for code, word in (("raise SystemExit('no way')", "no way"), ("pass", "Expecting value")):
        (tmp_path / "probe.py").write_text(code)
        monkeypatch.setattr(lsun, "PROBE", tmp_path / "probe.py")
        assert word in str(error_of(lambda: Lsun(path=folder).length))


def test_the_probe_gives_what_is_there(tmp_path, capfdbinary, monkeypatch):
    """In this process, so that its lines are seen to be run."""
    contents = list(pictures(5).values())
    folder = lsun_folder(tmp_path / "a", contents)
    answer, ends, keys = lsun_probe.probe(str(folder), 2**20, 3)
    assert answer["entries"] == 5
    assert np.frombuffer(ends, "<i8").tolist() == [40, 80, 120, 160, 200]
    assert keys == b"".join(sorted(map(key_of, contents)))
    monkeypatch.setattr(sys, "argv", ["probe", str(tmp_path / "nothing"), "1", "1"])
    lsun_probe.main()
    assert b"No such file" in capfdbinary.readouterr().out


def test_a_database_that_changes_is_opened_again(tmp_path):
    one, two = (lsun_folder(tmp_path / name, [encoded(values(H, W, 3, seed=k))]) for k, name in enumerate("ab"))
    data = Lsun(path=one, size=(H, W))
    assert torch.equal(data[0], as_event(values(H, W, 3)))
    (two / "data.mdb").replace(one / "data.mdb")
    assert "no longer in the database" in str(error_of(lambda: data[0]))
    assert torch.equal(Lsun(path=one, size=(H, W))[0], as_event(values(H, W, 3, seed=1)))


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def test_huggingface_gives_the_pictures_of_a_column(tmp_path, library):
    contents = [encoded(values(H, W, 3, seed=k)) for k in range(4)]
    rows(library, contents, column="picture").save_to_disk(str(tmp_path / "a"))
    data = HuggingFace(path=tmp_path / "a", column="picture", size=(H, W))
    assert data.event_shape == (3, H, W)
    assert torch.equal(events(data), torch.stack([as_event(values(H, W, 3, seed=k)) for k in range(4)]))
    error = error_of(lambda: HuggingFace(path=tmp_path / "a").length)
    assert "no column 'image'" in error.what
    assert "picture" in str(error)
    assert "holds no images" in error_of(lambda: HuggingFace(path=tmp_path / "a", column="label").length).what


def test_huggingface_splits(tmp_path, library):
    parts = {name: rows(library, [encoded(values(H, W, 3, seed=k))]) for k, name in enumerate(["train", "test"])}
    library.DatasetDict(parts).save_to_disk(str(tmp_path / "a"))
    for k, split in enumerate(parts):
        assert torch.equal(
            HuggingFace(path=tmp_path / "a", split=split, size=(H, W))[0], as_event(values(H, W, 3, seed=k))
        )
    error = error_of(lambda: HuggingFace(path=tmp_path / "a", split="validation").length)
    assert "train, test" in str(error)
    assert error.subject == "data.split"


def test_huggingface_fingerprint_follows_content_and_parameters(tmp_path, library):
    contents = list(pictures(4).values())
    kept = {"one": contents, "same": contents, "fewer": contents[:3], "turned": contents[::-1]}
    for name, part in kept.items():
        rows(library, part).save_to_disk(str(tmp_path / name))
    prints = {name: HuggingFace(path=tmp_path / name).fingerprint for name in kept}
    assert prints["one"] == prints.pop("same")
    for k, parameters in enumerate(({"size": 9}, {"channels": 1}, {"crop": "center"})):
        prints[k] = HuggingFace(path=tmp_path / "one", **parameters).fingerprint
    assert len(set(prints.values())) == 6


def test_a_bad_row_is_named(tmp_path, library, monkeypatch):
    (tmp_path / "beside.png").write_bytes(encoded(values(H, W, 3)))
    dataset = rows(library, [b"a text", b"", encoded(values(60, 60, 3))[:900]])
    dataset.save_to_disk(str(tmp_path / "a"))
    data = HuggingFace(path=tmp_path / "a")
    for index in range(3):
        error = error_of(lambda index=index: data[index])
        assert f"row {index}" in error.what
        assert "column 'image'" in error.where

    cells = [None, {"bytes": None, "path": str(tmp_path / "beside.png")}, {"bytes": None, "path": str(tmp_path)}]
    monkeypatch.setattr(HuggingFace, "_rows", [{"image": cell} for cell in cells])
    data = HuggingFace(path=tmp_path / "a", size=(H, W))
    assert "it is missing" in str(error_of(lambda: data[0]))
    assert torch.equal(data[1], as_event(values(H, W, 3)))
    assert "not a regular file" in str(error_of(lambda: data[2]))
    monkeypatch.setattr(huggingface, "MOST_BYTES", 10)
    assert "at most 10 are read" in str(error_of(lambda: data[1]))
    assert "row 0" in error_of(lambda: data.fingerprint).what


def test_a_damaged_data_set_is_named(tmp_path, library):
    rows(library, [encoded(values(60, 60, 3))] * 5).save_to_disk(str(tmp_path / "a"))
    for file in sorted((tmp_path / "a").iterdir()):
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"a text", b""):
            file.write_bytes(content)
            error = error_of(lambda: events(HuggingFace(path=tmp_path / "a")))
            assert str(tmp_path / "a") in str(error)
        file.write_bytes(whole)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in error_of(lambda: HuggingFace(path=tmp_path / "empty").length).what
    rows(library, []).save_to_disk(str(tmp_path / "none"))
    error = error_of(
        lambda: HuggingFace(path=tmp_path / "none").length
    )  # the library cannot load what it has just saved
    assert str(tmp_path / "none") in error.what


def test_a_name_on_the_hub(library, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options))
        if path == "someone/unreachable":
            raise ConnectionError("Couldn't reach the Hub\nand much more")
        return rows(library, [] if path == "nothing" else [encoded(values(H, W, 3))])

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    data = HuggingFace(path="someone/pictures", split="test", size=(H, W))
    assert torch.equal(data[0], as_event(values(H, W, 3)))
    assert asked == [("someone/pictures", {"split": "test", "trust_remote_code": False})]
    error = error_of(lambda: HuggingFace(path="someone/unreachable").length)
    assert "someone/unreachable" in error.what
    assert "much more" not in str(error)
    assert "no rows" in error_of(lambda: HuggingFace(path="nothing").length).what
    for path in ("a/b/c", "../up/x", "/x"):
        assert "there is no" in error_of(lambda path=path: HuggingFace(path=path).length).what
    assert len(asked) == 3


def test_huggingface_without_the_library_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = error_of(lambda: HuggingFace(path=tmp_path / "a").event_shape, ConfigError)
    assert "pip install 'gendiff[huggingface]'" in error.fix


def test_huggingface_has_the_labels_of_its_column(make):
    data = make("huggingface")
    assert data.conditions["label"].size == data.length
    assert [data.condition(k)["label"] for k in range(data.length)] == list(range(data.length))
    other = type(data).model_validate({**data.table(), "label": "colour"})
    assert other.fingerprint == data.fingerprint
    assert "column 'colour'" in str(error_of(lambda: other.conditions))
