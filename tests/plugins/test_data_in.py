"""Data that other libraries write: arrays, sounds, webdataset shards, parquet; each read where it lies, by index."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from itertools import pairwise

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset
import zarr
from gendiff_plugins.data.array import Array
from gendiff_plugins.data.folder import Folder
from gendiff_plugins.data.parquet import Parquet
from gendiff_plugins.data.wav import Wav
from gendiff_plugins.data.webdataset import WebDataset
from PIL import Image
from pyarrow import parquet
from scipy.io import wavfile
from webdataset import tariterators

from gendiff.datasets import pictures
from gendiff.datasets.sources import source
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError
from gendiff.frequency import dct_frequency, radius
from gendiff.gaussian import GaussianScore
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.rotation import Rotation
from gendiff.sampler import Sampler, sample
from gendiff.testing.data import conditions, declared, deterministic, length, own, workers

RNG = np.random.default_rng(0)
FIELDS = RNG.normal(280, 5, (12, 2, 6, 8))


def png(shade):
    v = np.full((6, 8, 3), shade, np.uint8)
    v[0, 0] = 255
    file = io.BytesIO()
    Image.fromarray(v).save(file, "PNG")
    return file.getvalue()


PNGS = [png(10 * k) for k in range(12)]


def write_npy(path):
    np.save(path / "x.npy", FIELDS)
    return path / "x.npy", ""


def write_npz(path):
    np.savez(path / "x.npz", y=np.arange(12), x=FIELDS)
    return path / "x.npz", "x"


def write_compressed(path):
    np.savez_compressed(path / "x.npz", x=FIELDS)
    return path / "x.npz", ""


def write_hdf5(path):
    with h5py.File(path / "x.h5", "w") as file:
        file.create_dataset("group/x", data=FIELDS, chunks=(5, 2, 6, 8), compression="gzip")
        file["y"] = np.arange(12)
    return path / "x.h5", "group/x"


def write_zarr(path):
    group = zarr.open_group(str(path / "x.zarr"), mode="w")
    group.create_array("x", data=FIELDS, chunks=(5, 2, 6, 8))
    return path / "x.zarr", "x"


@pytest.mark.parametrize("write", [write_npy, write_npz, write_compressed, write_hdf5, write_zarr])
def test_every_kind_of_file_gives_the_same_events(tmp_path, write):
    path, key = write(tmp_path)
    data = Array(path=path, key=key)
    shift, factor = data.scaling
    assert data.event_shape == (2, 6, 8)
    assert len(data) == 12
    assert data.value_range is None
    torch.testing.assert_close(shift, torch.from_numpy(FIELDS.mean((0, 2, 3))))
    torch.testing.assert_close(factor, torch.from_numpy(FIELDS.std((0, 2, 3))))
    back = shift.reshape(2, 1, 1) + factor.reshape(2, 1, 1) * data[7].double()
    torch.testing.assert_close(back, torch.from_numpy(FIELDS[7]), atol=1e-4, rtol=0)
    for promise in (declared, deterministic, own, length):
        promise(data)


@pytest.mark.parametrize(
    ("shape", "layout", "event"),
    [
        ((5, 32), "auto", (1, 32)),
        ((5, 2, 32), "auto", (2, 32)),
        ((5, 6, 8), "auto", (1, 6, 8)),
        ((5, 6, 8), "ncl", (6, 8)),
        ((5, 6, 8, 2), "auto", (2, 6, 8)),
        ((5, 6, 7, 8), "ndhw", (1, 6, 7, 8)),
        ((5, 6, 7, 8), "nchw", (6, 7, 8)),
        ((5, 2, 6, 7, 8), "auto", (2, 6, 7, 8)),
    ],
)
def test_axes(tmp_path, shape, layout, event):
    v = RNG.normal(size=shape)
    np.save(tmp_path / "x.npy", v)
    data = Array(path=tmp_path / "x.npy", layout=layout, scale="none")
    assert data.event_shape == event
    x = np.moveaxis(v[3], -1, 0) if event[0] == shape[-1] else v[3].reshape(event)
    torch.testing.assert_close(data[3], torch.from_numpy(x).float())


def test_axes_that_are_not_clear_are_asked_for(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(5, 6, 7, 8)))
    with pytest.raises(DataError, match="what its axes are is not clear") as caught:
        _ = Array(path=tmp_path / "x.npy").event_shape
    assert "nchw, nhwc, ndhw" in caught.value.details[1]


def test_range_goes_from_least_to_greatest(tmp_path):
    path, _ = write_npy(tmp_path)
    data = Array(path=path, scale="range")
    x = torch.stack([data[k] for k in range(12)])
    assert data.value_range == (-1, 1)
    for channel in (0, 1):
        assert (float(x[:, channel].min()), float(x[:, channel].max())) == (-1, 1)
    fixed = Array(path=path, scale="range", bounds=(200, 400))
    torch.testing.assert_close(fixed[0], torch.from_numpy((FIELDS[0] - 300) / 100).float())
    with pytest.raises(DataError) as caught:
        Array(path=path, scale="range", bounds=(279, 281))[0]
    assert "outside the bounds 279 to 281" in caught.value.details[0]
    assert len({Array(path=path).fingerprint, data.fingerprint, fixed.fingerprint}) == 3


@pytest.mark.parametrize("scale", ["standard", "none"])
def test_what_is_not_finite_is_named(tmp_path, scale):
    v = FIELDS.copy()
    v[3, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", v)
    with pytest.raises(DataError) as caught:
        Array(path=tmp_path / "x.npy", scale=scale)[3]
    assert list(caught.value.details) == ["event 3: 1 of its 96 values are not finite"]


def test_arrays_are_chosen_by_key(tmp_path):
    path, _ = write_hdf5(tmp_path)
    with pytest.raises(DataError, match="no array 'z'") as caught:
        _ = Array(path=path, key="z").event_shape
    assert list(caught.value.details) == ["its arrays: group/x, y"]
    data = Array(path=path, label="y")  # one array alone holds events
    assert data.event_shape == (2, 6, 8)
    assert data.condition(5) == {"label": 5}
    conditions(data)
    workers(data)


def test_complex_and_constant_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", FIELDS + 1j)
    with pytest.raises(DataError) as caught:
        _ = Array(path=tmp_path / "x.npy").event_shape
    assert "complex numbers" in caught.value.details[0]
    np.save(tmp_path / "y.npy", np.ones((4, 1, 8, 8)))
    with pytest.raises(DataError, match="all values of channel 0 of"):
        Array(path=tmp_path / "y.npy")[0]


@pytest.mark.parametrize(
    ("library", "write", "fix"), [("h5py", write_hdf5, "gendiff[hdf5]"), ("zarr", write_zarr, "gendiff[zarr]")]
)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, library, write, fix):
    path, key = write(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=f"needs the library {library}, which is not installed") as caught:
        _ = Array(path=path, key=key).event_shape
    assert fix in caught.value.fix


def test_damaged_files_are_named(tmp_path):
    path, key = write_hdf5(tmp_path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="cannot read the array in"):
        _ = Array(path=path, key=key).event_shape
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="cannot read the array in"):
        _ = Array(path=tmp_path / "x.npz").event_shape


# --- sounds -----------------------------------------------------------------------------------------------------------


def sounds(folder, rates=(8000, 8000, 8000), dtype="i2"):
    for number, rate in enumerate(rates):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        v = RNG.integers(-30000, 30000, 100 + 50 * number).astype("i2")
        wavfile.write(place / f"{number}.wav", rate, (v / 2**15).astype(dtype) if dtype[0] == "f" else v)
    return folder


def test_sounds_are_cut_into_pieces(tmp_path):
    data = Wav(path=sounds(tmp_path), samples=64, hop=32)
    assert (data.event_shape, len(data), data.rate) == ((1, 64), 2 + 5 + 3, 8000)  # a/0, a/2, b/1
    _, v = wavfile.read(tmp_path / "a/2.wav")
    torch.testing.assert_close(data[3], torch.from_numpy(v[32:96] / 2**15).float()[None])
    assert data.origin(3) == "a/2.wav, from sample 32"
    assert [data.condition(k)["label"] for k in (0, 6, 7, 9)] == [0, 0, 1, 1]
    for promise in (declared, deterministic, own, length, conditions, workers):
        promise(data)


def test_widths_of_samples(tmp_path):
    v = np.array([0, 0.5, -1, 0.25])
    wavfile.write(tmp_path / "u1.wav", 10, np.array([128, 192, 0, 160], np.uint8))
    wavfile.write(tmp_path / "i4.wav", 10, np.array(v * 2**31, "i8").clip(-(2**31), 2**31 - 1).astype("i4"))
    wavfile.write(tmp_path / "f4.wav", 10, v.astype("f4"))
    pcm = b"".join(int(x * 2**23).to_bytes(3, "little", signed=True) for x in v)
    head = b"WAVEfmt \x10\0\0\0\1\0\1\0" + (10).to_bytes(4, "little") + (30).to_bytes(4, "little") + b"\3\0\x18\0"
    body = head + b"data" + len(pcm).to_bytes(4, "little") + pcm
    (tmp_path / "i3.wav").write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    data = Wav(path=tmp_path, samples=4)
    assert len(data) == 4
    for k in range(4):
        torch.testing.assert_close(data[k], torch.from_numpy(v).float()[None])


def test_sounds_of_two_rates_are_refused(tmp_path):
    with pytest.raises(DataError, match="not of one kind") as caught:
        _ = Wav(path=sounds(tmp_path, (8000, 8000, 16000)), samples=64).event_shape
    assert list(caught.value.details) == [
        "a/0.wav: 8,000 samples per second",
        "a/2.wav: 16,000 samples per second",
    ] or (caught.value.details[1].startswith("a/2.wav"))


def test_short_and_damaged_sounds(tmp_path):
    sounds(tmp_path)
    assert Wav(path=tmp_path, samples=150).skipped == (("a/0.wav", "100 samples, fewer than 150"),)
    with pytest.raises(DataError, match="no sound has 4,000 samples"):
        _ = Wav(path=tmp_path, samples=4000).length
    (tmp_path / "a/0.wav").write_bytes(b"RIFF no more")
    with pytest.raises(DataError, match="1 of 3 wav files cannot be read") as caught:
        _ = Wav(path=tmp_path, samples=64).length
    assert caught.value.details[0].startswith("a/0.wav: ")


# --- shards -----------------------------------------------------------------------------------------------------------


def shards(folder):
    for number in range(2):
        with webdataset.TarWriter(str(folder / f"{number}.tar")) as writer:
            for k in range(6 * number, 6 * number + 6):
                told = {"pose": [k / 10, 0.5], "word": "ab"[k % 2]}
                writer.write({"__key__": f"{k:03d}", "png": PNGS[k], "cls": k % 3, "json": told})
    return folder


def folder_of(path):
    path.mkdir()
    for k, content in enumerate(PNGS):
        (path / f"{k:03d}.png").write_bytes(content)
    return Folder(path=path, size=8)


def test_shards_are_the_folder_that_they_unpack_to(tmp_path):
    reference = folder_of(tmp_path / "folder")
    data = WebDataset(path=shards(tmp_path), size=8)
    assert len(data) == 12
    for k in (11, 0, 6, 5):
        assert torch.equal(data[k], reference[k])
        assert data.condition(k) == {"label": k % 3}
    assert data.origin(6) == "1/006.png"
    for promise in (declared, deterministic, own, length, conditions, workers):
        promise(data)


def test_shards_hold_what_webdataset_reads(tmp_path):
    shards(tmp_path)
    data = WebDataset(path=tmp_path / "1.tar", size=8)
    with (tmp_path / "1.tar").open("rb") as file:
        grouped = tariterators.group_by_keys(tariterators.tar_file_expander([{"url": "1.tar", "stream": file}]))
        read = [(one["__key__"], one["png"]) for one in grouped]
    assert read == [(data.entry(k).removesuffix(".png"), PNGS[6 + k]) for k in range(6)]


def test_labels_of_json(tmp_path):
    shards(tmp_path)
    words = WebDataset(path=tmp_path, label="json.word")
    assert words.conditions["label"].classes == ("a", "b")
    assert words.condition(3) == {"label": 1}
    pose = WebDataset(path=tmp_path, label="json.pose")
    np.testing.assert_allclose(pose.condition(3)["vector"], [0.3, 0.5])
    with pytest.raises(DataError, match=r"cannot use 'json\.size' as the labels") as caught:
        _ = WebDataset(path=tmp_path, label="json.size").conditions
    assert list(caught.value.details) == ["0/000.png: it has no 'size'"]


def tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "mode", "why"),
    [
        ([("../0.png", PNGS[0])], "w", "a path that leads out"),
        ([("0.png", PNGS[0]), ("0.png", PNGS[1])], "w", "it holds '0.png' twice"),
        ([("0.png", PNGS[0]), ("1.png", PNGS[1]), ("0.cls", b"1")], "w", "do not lie one after another"),
        ([("0.png", PNGS[0])], "w:gz", "it is compressed"),
    ],
)
def test_shards_that_are_refused(tmp_path, members, mode, why):
    with pytest.raises(DataError, match=r"cannot read the shard 'x\.tar'") as caught:
        _ = WebDataset(path=tar(tmp_path / "x.tar", *members, mode=mode)).length
    assert why in caught.value.details[0]


def test_a_shard_that_ends_too_early_is_named(tmp_path):
    path = shards(tmp_path) / "1.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot read"):
        _ = WebDataset(path=path).length


# --- parquet ----------------------------------------------------------------------------------------------------------


def table(path, images, notes=True, **columns):
    path.parent.mkdir(exist_ok=True)
    content = pa.table({"image": images, **columns})
    features = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    if notes:
        content = content.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(content, path, row_group_size=5)
    return path


@pytest.mark.parametrize("bare", [False, True])
def test_parquet_is_the_folder_of_its_pictures(tmp_path, bare):
    reference = folder_of(tmp_path / "folder")
    for part in (0, 1):
        rows = range(7 * part, min(7 * part + 7, 12))
        images = [PNGS[k] if bare else {"bytes": PNGS[k], "path": f"{k}.png"} for k in rows]
        table(tmp_path / f"set/{part}.parquet", images, label=[k % 3 for k in rows])
    data = Parquet(path=tmp_path / "set", size=8)
    assert len(data) == 12
    assert data.conditions["label"].classes == ("cat", "dog", "eel")
    for k in (11, 0, 4, 5, 6, 7):
        assert torch.equal(data[k], reference[k])
        assert data.condition(k) == {"label": k % 3}
    for promise in (declared, deterministic, own, length, conditions, workers):
        promise(data)


def test_columns_of_parquet(tmp_path):
    path = table(tmp_path / "x.parquet", PNGS, notes=False, other=PNGS, pose=[k / 10 for k in range(12)])
    with pytest.raises(DataError, match="more than one column could hold pictures") as caught:
        _ = Parquet(path=path).event_shape
    assert caught.value.details[0] == "columns of pictures: image, other"
    with pytest.raises(DataError, match="no column 'img' in"):
        _ = Parquet(path=path, column="img").event_shape
    data = Parquet(path=path, column="image", label="pose")
    assert data.conditions["vector"].size == 1
    with pytest.raises(DataError, match="the column 'age' of"):
        _ = Parquet(path=path, column="image", label="age").conditions


def test_rows_without_a_picture_are_named(tmp_path):
    path = table(tmp_path / "x.parquet", [PNGS[0], None, b"no picture"])
    data = Parquet(path=path)
    for k, why in ((1, "it is missing"), (2, "not an image")):
        with pytest.raises(DataError, match=f"cannot read the picture in row {k}") as caught:
            _ = data[k]
        assert why in caught.value.details[0]


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    path = table(tmp_path / "x.parquet", PNGS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="needs the library pyarrow, which is not installed"):
        _ = Parquet(path=path).event_shape


# --- what all have ----------------------------------------------------------------------------------------------------


def test_bare_paths_are_recognised(tmp_path):
    np.save(tmp_path / "signals.npy", RNG.normal(size=(4, 2, 32)))
    np.save(tmp_path / "pictures.npy", RNG.normal(size=(4, 16, 32)))
    (tmp_path / "snd").mkdir()
    (tmp_path / "shards").mkdir()
    paths = {
        tmp_path / "signals.npy": "array",
        tmp_path / "pictures.npy": "npy",
        write_npz(tmp_path)[0]: "array",
        write_hdf5(tmp_path)[0]: "array",
        write_zarr(tmp_path)[0]: "array",
        sounds(tmp_path / "snd"): "wav",
        tmp_path / "snd/a/0.wav": "wav",
        shards(tmp_path / "shards"): "webdataset",
        tmp_path / "shards/0.tar": "webdataset",
        table(tmp_path / "x.parquet", PNGS): "parquet",
    }
    assert {path: source(default_registry(), str(path))["name"] for path in paths} == paths


def test_volumes_are_shown_as_slices():
    volume = torch.arange(8.0)[None, :, None, None].expand(1, 8, 6, 5) / 4 - 1
    picture = pictures.image(volume)
    assert picture.size == (20, 6)
    shown = [picture.getpixel((5 * k, 0)) for k in range(4)]
    assert shown == [int(pictures.to_uint8(volume[0, d, 0, 0])) for d in (1, 3, 5, 7)]


@pytest.mark.parametrize("shape", [(64,), (6, 8, 8)])
def test_samples_of_signals_and_volumes_recover_the_spectrum(tmp_path, shape):
    """The best Gaussian model of coloured noise, in closed form: within 1 dB of the data in each of three bands."""
    k = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")))
    k.flat[0] = np.inf
    axes = tuple(range(1, 1 + len(shape)))
    v = np.fft.ifftn(np.fft.fftn(RNG.normal(size=(512, *shape)), axes=axes) * k**-1.0, axes=axes).real
    np.save(tmp_path / "x.npy", v)
    data = Array(path=tmp_path / "x.npy", layout="nl" if len(shape) == 1 else "ndhw")
    x = torch.stack([data[n] for n in range(512)])
    y = gaussian_samples(data, x)
    own, theirs = bands(x), bands(y)
    assert own[0] - own[-1] > 8
    assert np.abs(own - theirs).max() < 1


def gaussian_samples(data, x):
    U = Rotation("dct")
    x_bar = U.rotate(x.double())
    diffusion = Diffusion.of(U, "isotropic", data.event_shape, N=1000, moments=Moments.fit(data, U))
    model = GaussianScore(diffusion, x_bar.mean(0), x_bar.var(0))
    return sample(diffusion, model, Sampler("ddim:steps=50"), n=256)


def bands(x):
    """Mean square of the DCT coefficients of events, in three bands of frequency, in decibels."""
    sizes = x.shape[2:]
    power = Rotation("dct").rotate(x.double()).square().mean((0, 1)).flatten()
    rho = radius([dct_frequency(n) for n in sizes]).flatten()
    edges = np.geomspace(0.99 * np.pi / max(sizes), 1.01 * float(rho.max()), 4)
    return np.array([10 * np.log10(float(power[(rho >= a) & (rho < b)].mean())) for a, b in pairwise(edges)])
