"""Published: data in the forms in which they are published, as files that a test writes."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile

import lmdb
import numpy as np
import torch
from gendiff_plugins.data import cifar10
from PIL import Image

H, W = 6, 10


def values(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_event(v):
    """The event of 8-bit values ``(H, W, C)``."""
    return torch.from_numpy(np.array(v)).permute(2, 0, 1).to(torch.float32) / 127.5 - 1


def events(data):
    return torch.stack([data[index] for index in range(data.length)])


def encoded(v, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(v).save(file, form, **options)
    return file.getvalue()


def text(word):
    return b"U" + bytes([len(word)]) + word  # as Python 2 pickles a str


def pickled(pixels, labels, name=b"training batch 1 of 5"):
    """What cPickle of Python 2 made of a batch, instruction by instruction."""
    dtype = b"cnumpy\ndtype\nq\x0c" + text(b"u1") + b"K\x00K\x01\x87Rq\r(K\x03" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\t" + text(b"b") + b"\x87q\nRq\x0b"
    )
    array += b"(K\x01M" + struct.pack("<H", len(pixels)) + b"M\x00\x0c\x86" + dtype
    array += b"\x89T" + struct.pack("<I", pixels.size) + pixels.tobytes() + b"tb"
    numbers = b"]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + text(b"leptodactylus_pentadactylus_s_000004.png") * len(labels) + b"e"
    table = text(b"batch_label") + b"q\x02" + text(name) + b"q\x03" + text(b"labels") + b"q\x04" + numbers
    table += text(b"data") + b"q\x06" + array + text(b"filenames") + b"q\x0e" + names
    return b"\x80\x02}q\x01(" + table + b"u."


def binary(pixels, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


BATCHES = {name: values(2, 3072, seed=number) for number, name in enumerate([*cifar10.BATCHES["train"], "test_batch"])}


TRAIN = np.concatenate([BATCHES[name] for name in cifar10.BATCHES["train"]]).reshape(-1, 3, 32, 32)


def cifar_files(form):
    write, ending = (pickled, "") if form == "python" else (binary, ".bin")
    return {f"{name}{ending}": write(pixels, [3, 9]) for name, pixels in BATCHES.items()}


def cifar_folder(root, form="python"):
    folder = root / ("cifar-10-batches-py" if form == "python" else "cifar-10-batches-bin")
    folder.mkdir(parents=True)
    for name, content in cifar_files(form).items():
        (folder / name).write_bytes(content)
    (folder / "batches.meta").write_bytes(b"not looked at")
    return folder


def tar_of(path, files, form="w:gz"):
    with tarfile.open(path, form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def cifar_archive(root, form="python"):
    root.mkdir(exist_ok=True)
    below = "cifar-10-batches-py" if form == "python" else "cifar-10-batches-bin"
    files = {f"{below}/{name}": content for name, content in {"readme.html": b"<html>", **cifar_files(form)}.items()}
    return tar_of(root / f"cifar-10-{form}.tar.gz", files)


def idx_of(v):
    return struct.pack(">IIII", 0x00000803, *v.shape) + v.tobytes()


def idx_folder(root, v=None):
    root.mkdir(exist_ok=True)
    v = values(4, 28, 28, seed=7) if v is None else v
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_of(v)))
    (root / "t10k-images-idx3-ubyte").write_bytes(idx_of(v[::-1]))
    return root


def zip_of(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pictures(n=3):
    """Encoded pictures by name, some of which lose nothing."""
    files = {}
    for k in range(n):
        form, options = [("PNG", {}), ("JPEG", {"quality": 90}), ("WEBP", {"lossless": True})][k % 3]
        files[f"{k:02}.{form.lower()}"] = encoded(values(H + k % 2, W, 3, seed=k), form, **options)
    return files


def key_of(content):
    return hashlib.sha1(content).hexdigest().encode()


def lsun_folder(path, contents):
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for content in contents:
            transaction.put(key_of(content), content)
    return path


#: Data components that read them.
NAMES = ["cifar10", "cifar10-binary", "mnist", "fashion-mnist", "npy", "zip", "lsun", "huggingface", "packed"]
