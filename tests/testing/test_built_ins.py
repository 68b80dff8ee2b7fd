"""Every built-in keeps the contract of its kind."""

from __future__ import annotations

import dataclasses
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adm
import numpy as np
import nvidia
import pyarrow
import pytest
import scipy.io.wavfile
import torch
from PIL import Image
from published import NAMES as DATASETS
from pyarrow import parquet

from gendiff import BlurSchedule, Data, Model, NoiseSchedule, Rotation, Sampler, Velocity
from gendiff.metric import Metric
from gendiff.operator import Operator
from gendiff.plugin.registry import default_registry
from gendiff.process import Process
from gendiff.run.module import named_by_user
from gendiff.testing import checks, score
from gendiff.testing.card import _CHECKS

KINDS = {entry.kind for entry in default_registry().entries()}


def pictures() -> Path:
    """A small folder of pictures, the same one for the whole session."""
    folder = Path(os.environ["PYTEST_PICTURES"])
    if not folder.exists():
        folder.mkdir()
        for k in range(6):
            Image.fromarray(np.random.default_rng(k).integers(0, 256, (9 + k, 12, 3), dtype=np.uint8)).save(
                folder / f"{k}.png"
            )
    return folder


def pretrained() -> Path:
    """A tiny network of diffusers, for pictures of any size."""
    from foreign import unet

    if not (folder := pictures().with_name("network")).exists():
        unet(sample_size=None).save_pretrained(folder)
    return folder


def vae() -> Path:
    """A tiny autoencoder of diffusers."""
    from autoencoders import autoencoder

    if not (folder := pictures().with_name("vae")).exists():
        autoencoder(folder)
    return folder


def vision_transformer() -> Path:
    """A tiny DINOv2."""
    from dinov2 import dinov2

    return dinov2(pictures().with_name("dinov2"))


def network_file() -> Any:
    """A file that makes a network, let in as one that is named on the command line."""
    file = pictures().with_name("network.py")
    file.write_text("from torch import nn\nfrom gendiff import Model\n\n\n" + NETWORK)
    return {key: value for key, value in named_by_user(f"module:path={file}:make").items() if key != "name"}


NETWORK = """def make(event_shape, in_channels):
    model = Model("mlp", width=8, depth=1, frequency_features=in_channels > event_shape[0])
    return Untold(model.build(event_shape))


class Untold(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, i):
        return self.inner(x, i)
"""


@pytest.fixture(scope="module", autouse=True)
def _pictures_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_PICTURES", str(tmp_path_factory.mktemp("conformance") / "pictures"))
        yield


def weights(kind: str) -> Path:
    """The weights of a small network in the form of another library, the same file for the whole session."""
    path = pictures().with_name(f"{kind}-weights")
    if not path.exists():
        if kind == "edm":
            nvidia.write(path, nvidia.network(img_channels=1), img_channels=1)
        else:
            torch.save(adm.network("old").state_dict(), path)
    return path


def data_file(kind: str) -> Path:
    """A small file of that kind, the same one for the whole session."""
    path = pictures().with_name({"array": "a.npz", "parquet": "t.parquet", "wav": "s.wav", "webdataset": "s.tar"}[kind])
    values = np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float32)
    if path.exists():
        return path
    if kind == "array":
        np.savez(path, values)
    elif kind == "wav":
        scipy.io.wavfile.write(path, 8000, np.tanh(values.flatten()))
    elif kind == "parquet":
        files = [file.read_bytes() for file in sorted(pictures().iterdir())]
        parquet.write_table(pyarrow.table({"image": files}), path)
    else:
        with tarfile.open(path, "w") as archive:
            for file in sorted(pictures().iterdir()):
                archive.add(file, file.name)
    return path


#: What a component needs that its defaults do not say; a logger that would talk to the network stays on the disk.
ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "model edm": lambda: {"path": weights("edm")},
    "model adm": lambda: {"path": weights("adm"), "size": 8, "heads": 4},
    "guide autoguidance": lambda: {"weaker": "@1"},
    "grid explicit": lambda: {"at": [200, 100, 20, 3]},
    "data folder": lambda: {"path": pictures(), "size": 8},
    "data array": lambda: {"path": data_file("array"), "layout": "nhw"},
    "data parquet": lambda: {"path": data_file("parquet"), "size": 4},
    "data wav": lambda: {"path": data_file("wav"), "samples": 16},
    "data webdataset": lambda: {"path": data_file("webdataset"), "size": 4},
    "data photos": lambda: {"path": pictures(), "size": 4, "crops": 3},
    "model diffusers": lambda: {"path": pretrained()},
    "model module": network_file,
    "logger wandb": lambda: {"mode": "offline"},
    "latent diffusers": lambda: {"path": vae(), "sample": True},
    "features dinov2": lambda: {"path": vision_transformer(), "size": 24},
    "operator mask": lambda: {"rectangle": [1, 1, 2, 1]},
}


def built_in_checks() -> Iterator[Any]:
    """Each check of each built-in: the component is made when the test runs, its checks are known by kind."""
    for entry in default_registry().entries():
        if not entry.provider.built_in:
            continue
        if entry.name in DATASETS and entry.kind == "data":
            continue  # test_datasets.py writes their files, and runs the same checks
        cls = entry.load()
        stand_in = cls.model_construct()  # a required parameter is not there yet
        for one in checks(stand_in):
            arguments = ARGUMENTS.get(f"{entry.kind} {entry.name}", dict)
            marks = [pytest.mark.slow] if entry.kind == "process" else []  # its rotation and its velocity are here
            yield pytest.param(one, cls, arguments, id=f"{entry.kind}-{entry.name}: {one.title}", marks=marks)


@pytest.mark.parametrize(("one", "cls", "arguments"), built_in_checks())
def test_built_in(one, cls, arguments, monkeypatch):
    monkeypatch.setenv("GENDIFF_FID_WEIGHTS", "missing.pth")  # no test fetches the Inception weights
    seen = dataclasses.replace(one, subject=cls.model_validate(arguments()))()
    assert isinstance(seen, str)
    assert 0 < len(seen.strip()) < 500


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, id=f"preset-{name}: {one.title}")
        for name, path in default_registry().presets().items()
        for one in checks(path)
    ],
)
def test_preset(one):
    assert one()


def test_every_kind_has_checks_of_its_own():
    for kind in KINDS:
        assert len(_CHECKS[kind]) >= 2, kind


def test_the_checks_of_every_kind_have_mutants():
    for kind in KINDS - {"features"}:  # test_features.py has its own
        assert Path(__file__).with_name(f"test_{kind}_kit.py").exists(), kind


#: Variants of built-ins whose defaults are not all that they can be.
VARIANTS = [
    (Rotation, "klt:patch=3"),
    (Rotation, "haar:levels=1"),
    (Rotation, "ycbcr+dct"),
    (Rotation, "channel-pca+block-dct:size=3"),
    (Rotation, "dct:axes=[0.5]"),
    (Velocity, "coloured:velocity=blurring,colour=as-data,terminal=true"),
    (Rotation, "dst:type=1"),
    (Rotation, "blur-eigen:sigma=1"),
    (BlurSchedule, "log:f_max=10000"),
    (BlurSchedule, "triangular:f_max=0.3,f_min=0.1"),
    (NoiseSchedule, "sigmoid:start=0,tau=0.3"),
    (Velocity, "fine-to-coarse:schedule=log"),
    (Velocity, "blur:noise=cosine,sigma=2"),
    (Velocity, "blurring:sigma_max=0,d_min=0"),
    (Velocity, "heat:sigma_max=300"),
    (Velocity, "cold:growth=1"),
    (Velocity, "spectrum-matched:power_law=[1.59,0.0086,2]"),
    (Velocity, "equal-snr:flipped=true"),
    (Velocity, "soft-conditioning:soft=0.001"),
    (Velocity, "reversed:velocity=equal-snr"),
    (Velocity, "reversed:velocity='learned:bands=3,parts=4'"),
    (Velocity, "coloured:velocity='learned:bands=3,parts=4',colour=pink"),
    (Velocity, "coloured:velocity={name='reversed',velocity='learned:bands=2,parts=2'},colour=as-data,terminal=true"),
    (Sampler, "ddim:eta=0.5,steps=7"),
    (Sampler, "ancestral:steps=10"),
    (Model, "unet:dropout=0.5,multipliers=[1,2,2]"),
    (Model, "mlp:frequency_features=true"),
    (Model, "dit:width=16,depth=2,heads=2,time=bands,bands=4"),
    (Model, "uvit:width=16,depth=3,heads=2,time=lambda"),
    (Metric, "spectrum:bands=8"),
    (Data, "gaussian-field:size=[20]"),
    (Operator, "blur:sigma=0.8,borders=circular"),
    (Operator, "downsample:factor=4"),
    (Operator, "mask:rectangle=[1,2],invert=true"),
    (Process, "blur-diffusion:schedule=log"),
    (Process, "reversed:process=heat-dissipation"),
    (Process, "reversed:process=flipped-snr"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("interface", "spec"), VARIANTS, ids=lambda value: str(value))
def test_variants_of_built_ins(interface, spec):
    assert [line for line in score(interface.model_validate(spec)) if not line.passed] == []
