"""What leaves gendiff opens in a process that has none, and draws the same pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from command import TINY, run
from foreign import N, pipeline, unet
from safetensors.torch import load_file

import gendiff
from gendiff.run.exporting import written
from gendiff.sampler import Sampler, sample

#: What opens folders without gendiff: of each the pictures that begin from ``noise``, and go on with the draws of one generator.
FOREIGN = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("gendiff"):
            raise ModuleNotFoundError(f"no {name} here")
sys.meta_path.insert(0, Blocked())
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
torch.set_num_threads(1)
noise, drawn = torch.load("noise.pt", weights_only=True), {}
for name, labels in json.loads(sys.argv[1]).items():
    generator = torch.Generator().manual_seed(5)
    if name.startswith("stock"):
        pipe = DiffusionPipeline.from_pretrained(name)
        scheduler, x = DDIMScheduler.from_config(pipe.scheduler.config), noise
        scheduler.set_timesteps(scheduler.config.num_train_timesteps)
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(pipe.unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
        drawn[name] = x
        pipe.set_progress_bar_config(disable=True)
        assert len(pipe(batch_size=1, num_inference_steps=2).images) == 1
        continue
    pipe = DiffusionPipeline.from_pretrained(name, custom_pipeline=name, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    later = lambda: torch.randn(noise.shape, generator=generator)
    drawn[name] = pipe(latents=noise, noise=later, class_labels=labels, output_type="pt").images
    assert pipe(batch_size=2).images[0].size == (8, 8)
    # A part is written elsewhere as any of diffusers is.
    pipe.unet.save_pretrained(f"again-{name}")
    again = type(pipe.unet).from_pretrained(f"again-{name}")
    weights = [part.state_dict() for part in (again, pipe.unet)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
torch.save(drawn, "drawn.pt")
"""

SETTINGS = {
    "mlp": ("--model", "mlp:width=8,depth=1", "--rotation", "dct", "--schedule", "quartic", "--sampler", "ancestral"),
    "unet": (
        "--model",
        "unet:channels=8,multipliers=[1],blocks=1,attention=[]",
        "--process",
        "ddpm",
        "--objective",
        "v",
    ),
    "told": (
        "--model",
        "unet:channels=8,multipliers=[1],blocks=1,attention=[]",
        "--rotation",
        "haar",
        "--condition",
        "label",
    ),
    "features": ("--model", "mlp:width=8,depth=1,frequency_features=true", "--rotation", "dct", "--objective", "x0"),
    "several": ("--model", "mlp:width=8,depth=1", "--rotation", "klt", "--velocity", "spectrum-matched"),
    "flow": ("--model", "mlp:width=8,depth=1", "--process", "k-flow", "--objective", "velocity"),
}
SAMPLERS = {
    "mlp": "ancestral",
    "unet": "ddim:steps=5",
    "told": "ancestral",
    "features": "heun:steps=5",
    "several": "dpmpp-2m:steps=5",
    "flow": "dpmpp-2m:steps=5,grid='lambda:real=true'",
    "native": "ddim:steps=7",
}
LABELS = {"told": [0, 3, 10], "native": [0, 3, 10]}  # the last stands for none


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs, and what was exported of each, opened once by a process without gendiff."""
    place = tmp_path_factory.mktemp("out")
    classes = pipeline(place / "classes", unet(num_class_embeds=10))
    native = (
        "--model",
        f"diffusers:path={classes}",
        "--rotation",
        "dct",
        "--schedule",
        "quartic",
        "--condition",
        "label",
    )
    for name, settings in {**SETTINGS, "native": native}.items():
        made = run("train", *TINY, "--data", "digits", "--set", "N=20", *settings, "--out", place / name)
        assert made.code == 0, made.err
        made = run("export", place / name, place / f"of-{name}", "--to", "diffusers", "--sampler", SAMPLERS[name])
        assert made.code == 0, made.err
    folder = pipeline(place / "folder", unet())
    made = run("import", f"diffusers:{folder}", "--out", place / "stock")
    assert made.code == 0, made.err
    assert run("export", place / "stock", place / "stock-of", "--to", "diffusers").code == 0
    torch.save(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), place / "noise.pt")
    asked = {f"of-{name}": LABELS.get(name) for name in SAMPLERS} | {"stock-of": None}
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, json.dumps(asked)],
        cwd=place,
        env={**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def drawn(place):
    return torch.load(place / "drawn.pt", weights_only=True)


def ours(folder, sampler, noise, labels=None):
    """The pictures that gendiff draws of the same noise."""
    model = gendiff.load(folder, device="cpu")
    generator, first = torch.Generator().manual_seed(5), [noise]
    later = lambda: first.pop() if first else torch.randn(noise.shape, generator=generator)  # noqa: E731
    score = model.score if labels is None else model.score.given({"label": torch.tensor(labels)})
    with torch.no_grad():
        return sample(model.diffusion, score, Sampler(sampler), later)


@pytest.mark.parametrize("name", SAMPLERS)
def test_pictures_of_a_process_without_gendiff_are_the_same(place, drawn, name):
    noise = torch.load(place / "noise.pt", weights_only=True)
    mine = ours(place / name, SAMPLERS[name], noise, LABELS.get(name))
    assert (drawn[f"of-{name}"] - mine).abs().max() < 1e-5


def test_what_came_from_diffusers_goes_back_with_a_stock_scheduler(place, drawn):
    noise = torch.load(place / "noise.pt", weights_only=True)
    model = gendiff.load(place / "stock", device="cpu")
    start = model.diffusion.rotate(noise)
    mine = sample(model.diffusion, model.score, Sampler(f"ddim:steps={N},grid=uniform"), start=start)
    assert (drawn["stock-of"] - mine).abs().max() < 1e-5
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(place / "folder" / name), load_file(place / "stock-of" / name)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not list((place / "stock-of").rglob("*.py"))
    index = json.loads((place / "stock-of" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]


def test_numbers_alone(place):
    out = place / "numbers"
    done = run("export", place / "mlp", out, "--to", "safetensors")
    assert done.code == 0, done.err
    assert "\nfrom safetensors.torch import load_file\n" in done.err  # a line that can be copied
    assert {file.name for file in out.iterdir()} == {
        "model.safetensors",
        "process.safetensors",
        "config.json",
        "README.md",
    }
    network = gendiff.load(place / "mlp", device="cpu").network.state_dict()
    weights = load_file(out / "model.safetensors")
    assert weights.keys() == network.keys()
    assert all(torch.equal(weights[name], network[name]) for name in network)
    assert json.loads((out / "config.json").read_text())["N"] == 20


def test_a_folder_that_holds_something_stays_as_it_is(place, tmp_path):
    (tmp_path / "mine").write_text("mine")
    refused = run("export", place / "mlp", tmp_path, "--to", "safetensors")
    assert refused.code == 2
    assert "exists and is not empty (from DIR)" in refused.err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_where_an_export_fails(place, tmp_path, monkeypatch):
    def fails(model):
        raise written._no_program(model, ValueError("no"))

    monkeypatch.setattr(written, "program", fails)
    refused = run("export", place / "mlp", tmp_path / "out", "--to", "diffusers")
    assert refused.code == 3
    assert "--to safetensors" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_beginning_from_events_does_not_travel(place, tmp_path):
    refused = run("export", place / "mlp", tmp_path / "out", "--to", "diffusers", "--prior", "data")
    assert refused.code == 2
    assert "--prior matched" in refused.err


@pytest.mark.slow
def test_a_graph_answers_as_the_network_for_any_batch(place):
    import onnx
    from onnx.reference import ReferenceEvaluator

    assert run("export", place / "told", place / "graph", "--to", "onnx").code == 0
    model = gendiff.load(place / "told", device="cpu")
    x, i, label = torch.randn(5, 1, 8, 8), torch.tensor([1.0, 3, 9, 19, 20]), torch.tensor([0, 9, 10, 3, 3])
    graph = ReferenceEvaluator(onnx.load(place / "graph" / "network.onnx"))
    (output,) = graph.run(None, {"x": x.numpy(), "i": i.numpy(), "label": label.numpy()})
    with torch.no_grad():
        mine = model.denoiser(x, i, {"label": label})
    torch.testing.assert_close(torch.from_numpy(output), mine, atol=1e-5, rtol=1e-5)


def test_onnx_without_its_libraries_says_what_to_install(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused = run("export", place / "mlp", tmp_path / "out", "--to", "onnx")
    assert refused.code == 3
    assert "gendiff[onnx]" in refused.err


class Api:
    """The Hub, as far as it is asked."""

    def __init__(self, error=None):
        self.error, self.calls = error, []

    def create_repo(self, name, **how):
        if self.error:
            raise self.error
        self.calls.append(("create", name, how))
        return type("Url", (), {"repo_id": f"me/{name}"})

    def upload_folder(self, repo_id, folder_path, commit_message):
        names = {str(file.relative_to(folder_path)) for file in folder_path.rglob("*") if file.is_file()}
        self.calls.append(("upload", repo_id, names))


class TestPush:
    @pytest.fixture
    def hub(self, monkeypatch):
        import huggingface_hub

        api = Api()
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
        return api

    def test_the_folder_goes_in_one_commit(self, place, hub):
        pushed = run("push", place / "mlp", "mine", "--to", "safetensors", "--private", "--json")
        assert pushed.code == 0, pushed.err
        assert hub.calls[0] == ("create", "mine", {"private": True, "exist_ok": True})
        assert hub.calls[1][:2] == ("upload", "me/mine")
        assert hub.calls[1][2] == set(pushed.json["files"]) >= {"README.md", "model.safetensors"}
        assert pushed.json["url"].endswith("me/mine")

    def test_a_dry_run_shows_what_would_go(self, place, hub):
        dry = run("push", place / "mlp", "mine", "--dry-run")
        assert dry.code == 0, dry.err
        assert "unet/network.pt2" in dry.err
        assert 'from_pretrained("mine", custom_pipeline="mine", trust_remote_code=True)' in dry.out
        assert hub.calls == []

    def test_without_a_token_it_says_how_to_log_in(self, place, hub, monkeypatch):
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        refused = run("push", place / "mlp", "mine", "--to", "safetensors")
        assert refused.code == 4
        assert "hf auth login" in refused.err
        assert hub.calls == []

    def test_what_the_hub_refuses_is_said_in_one_screen(self, place, hub):
        hub.error = PermissionError("403 Forbidden")
        refused = run("push", place / "mlp", "other/mine", "--to", "safetensors")
        assert refused.code == 4
        assert "403 Forbidden" in refused.err
        assert "hf auth whoami" in refused.err
