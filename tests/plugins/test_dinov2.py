"""DINOv2: the features that transformers gives of the same folder."""

from __future__ import annotations

import json

import pytest
import torch
from command import run
from dinov2 import dinov2
from gendiff_plugins.features.dinov2 import MEAN, STD, Dinov2

from gendiff.errors import ConfigError, DataError

PICTURE = torch.linspace(-1, 1, 3 * 24 * 24).sin().reshape(1, 3, 24, 24)
#: What Dinov2Model of transformers 5.24 gives of this picture as pooler_output, by whether its layers are gated.
PUBLISHED = {
    False: """-0.1202022 -0.0733332 0.6021244 0.3700242 0.4897208 0.4842734
              -0.2624108 -0.4898678 -0.3373143 0.1013808 -0.3290091 -0.5745108""",
    True: """0.8619956 0.6143835 0.6181441 0.7126679 1.4528050 0.7298850
             -0.4957777 0.3989527 0.4381084 0.0777655 -0.4273955 -0.5005503""",
}


@pytest.mark.parametrize("swiglu", [False, True])
def test_its_numbers_are_those_of_transformers(tmp_path, swiglu):
    rows = Dinov2(path=dinov2(tmp_path, swiglu), size=24).extract(PICTURE)
    torch.testing.assert_close(rows, torch.tensor([list(map(float, PUBLISHED[swiglu].split()))]), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("size", [16, 24, 32])
@torch.no_grad()
def test_they_are_those_of_the_library_that_is_here(tmp_path, swiglu, size):
    """And of a folder that it writes anew."""
    transformers = pytest.importorskip("transformers")
    network = transformers.Dinov2Model.from_pretrained(dinov2(tmp_path / "old", swiglu)).eval()
    network.save_pretrained(tmp_path / "new")
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (MEAN, STD))
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = network((x - mean) / std).pooler_output
    for folder in ("old", "new"):
        torch.testing.assert_close(Dinov2(path=tmp_path / folder, size=size).extract(2 * x - 1), expected)


def test_every_weight_counts(tmp_path):
    """But the token of pretraining, which no picture meets."""
    from safetensors.torch import load_file, save_file

    weights = load_file(dinov2(tmp_path) / "model.safetensors")
    before = Dinov2(path=tmp_path, size=32).extract(PICTURE)
    for name in weights:
        if name.endswith("key.bias"):  # the same for every key: the softmax does not see it
            continue
        changed = {
            **weights,
            name: weights[name] + 0.1 * torch.arange(weights[name].numel()).sin().reshape(weights[name].shape),
        }
        save_file(changed, tmp_path / "model.safetensors")
        after = Dinov2(path=tmp_path, size=32).extract(PICTURE)
        assert torch.equal(before, after) == (name == "embeddings.mask_token"), name


def test_pictures_as_it_takes_them(tmp_path):
    features = Dinov2(path=dinov2(tmp_path), size=24)
    grey = PICTURE[:, :1]
    assert torch.equal(features.extract(grey), features.extract(grey.expand(-1, 3, -1, -1)))
    assert torch.equal(features.extract(3 * PICTURE), features.extract((3 * PICTURE).clamp(-1, 1)))
    torch.testing.assert_close(  # what is the same everywhere is so at any size
        features.extract(torch.full((1, 1, 40, 30), 0.5)), features.extract(torch.full((1, 1, 24, 24), 0.5))
    )
    for shape in ((2, 24, 24), (3, 24)):
        with pytest.raises(ConfigError, match="cannot take events"):
            features.extract(torch.zeros(1, *shape))
    with pytest.raises(ConfigError, match="no multiple of the patches of 4"):
        Dinov2(path=tmp_path, size=26).extract(PICTURE)


def test_its_fingerprint_says_how_and_by_which_weights(tmp_path):
    one, other = dinov2(tmp_path / "one"), dinov2(tmp_path / "other", layer_norm_eps=1e-5)
    marks = {Dinov2(path=one).fingerprint, Dinov2(path=one, size=24).fingerprint, Dinov2(path=other).fingerprint}
    assert len(marks) == 3
    assert Dinov2(path=one).fingerprint.startswith("dinov2/1 cls bicubic 224 ")
    assert Dinov2(path=one).distance_name == "fd-dinov2"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), DataError, "the DINOv2 weights are not there"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), DataError, "cannot read the DINOv2 weights"),
        (lambda folder: dinov2(folder, hidden_act="relu"), ConfigError, "its hidden_act is 'relu'"),
        (lambda folder: dinov2(folder, model_type="vit"), ConfigError, "it is of type 'vit'"),
        (lambda folder: dinov2(folder, hidden_size=24), DataError, "cannot read the DINOv2 weights"),
    ],
    ids=["gone", "damaged", "other activation", "other network", "other config"],
)  # fmt: skip
def test_what_is_no_dinov2(tmp_path, change, error, words):
    change(dinov2(tmp_path))
    with pytest.raises(error, match=words):
        Dinov2(path=tmp_path, size=24).extract(PICTURE)


@pytest.mark.slow
def test_a_frechet_distance_beside_others(tmp_path):
    dinov2(tmp_path)
    done = run(
        "evaluate", "gaussian-field:size=8", "--data", "digits", "--n", 32, "--no-cache", "--json",
        "--features", f"dinov2:path={tmp_path},size=24", "--features", "pixels",
    )  # fmt: skip
    assert done.code == 0, done.err
    numbers = {one["name"]: one for one in json.loads(done.out)["numbers"]}
    assert {"fd-dinov2", "kd-dinov2", "precision-dinov2", "fd-pixels"} <= numbers.keys()
    assert "cls bicubic 24" in json.dumps(numbers["fd-dinov2"])
