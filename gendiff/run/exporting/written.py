"""Written: the folders that leave gendiff, each whole or not there.

``diffusers`` is a pipeline, ``safetensors`` numbers alone, ``onnx`` the network as a graph.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from gendiff.errors import ConfigError, PluginError, reason
from gendiff.extra import extra
from gendiff.level import Level
from gendiff.run import stored
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler, Update
from gendiff.score import LOG_A_PRIOR, Parametrization
from gendiff.shapes import EventShape
from gendiff.storage.files import put, saved
from gendiff.storage.folder import check_empty
from gendiff.storage.staging import whole
from gendiff.streams import stream

PROGRAM, ONNX, CARD = "network.pt2", "network.onnx", "README.md"
TRAVELLING = "gendiff.run.exporting.travelling"
#: What its scheduler makes x̂_0 and ε̂ of by itself (`travelling.scheduling_gendiff`); of others there are tables.
DECODED = {"eps", "x0", "v", "wiener", "residual", "score", "std"}
#: Of diffusers: how a stock scheduler calls what the network predicts.
PREDICTIONS: Mapping[str, str] = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def export(model: TrainedModel, to: str, out: Path, sampler: Sampler | None = None, name: str = "") -> list[str]:
    """Write a trained network for a process without gendiff; returns lines on how it is opened.

    Args:
        to: ``diffusers``, ``safetensors`` or ``onnx``.
        out: a new or empty folder, which is whole or not there.
        sampler: whose tables a pipeline has; left out, that of the run.
        name: as which it is opened; left out, ``out``.

    Raises:
        ConfigError: where ``out`` holds something, and for what such a folder cannot say.
        PluginError: where a library is missing, or makes no program of the network.

    """
    if to not in FORMATS:
        raise ConfigError(f"there is no format '{to}'", where="--to", details=[f"allowed: {', '.join(FORMATS)}"])
    check_empty(out, where="DIR")
    with whole(out, inside=True) as stage:
        lines = FORMATS[to](model, stage, sampler or model.config.sampler)
        opening = [line.replace("DIR", name or str(out)) for line in lines]
        put(stage / CARD, card(model, opening).encode())
    return opening


# --- diffusers --------------------------------------------------------------------------------------------------------


def _diffusers(model: TrainedModel, out: Path, sampler: Sampler) -> list[str]:
    extra("diffusers", "a pipeline")
    inner = _inner(model)
    if inner is not None and (betas := _stock(model)) is not None:
        return _pipeline_of_stock(model, inner, betas, out)
    absent = _absent(model)
    config, tables = _tables(model, sampler)
    config |= {"absent": absent, "native": inner is not None}
    config |= {"stride": 1.0 if inner is None else float(model.network.stride)}  # type: ignore[arg-type]  # a buffer
    (out / "unet").mkdir()
    if inner is None:
        saved(out / "unet" / PROGRAM, lambda file: torch.export.save(program(model), file))
        _copied("network_gendiff.py", out / "unet")
        network = ["network_gendiff", "GendiffNetwork"]
    else:
        inner.save_pretrained(str(out / "unet"))
        network = ["diffusers", type(inner).__name__]
    (out / "scheduler").mkdir()
    _copied("scheduling_gendiff.py", out / "scheduler")
    put(out / "scheduler" / "scheduler_config.json", json.dumps(config, indent=1).encode())
    put(out / "scheduler" / "tables.safetensors", safetensors.torch.save(tables))
    _copied("pipeline.py", out)
    index = {"_class_name": "GendiffPipeline", "_diffusers_version": _version("diffusers"), "unet": network}
    index["scheduler"] = ["scheduling_gendiff", "GendiffScheduler"]
    put(out / "model_index.json", json.dumps(index, indent=1).encode())
    return [
        "from diffusers import DiffusionPipeline",
        'pipe = DiffusionPipeline.from_pretrained("DIR", custom_pipeline="DIR", trust_remote_code=True)',
        "images = pipe(batch_size=4).images",
    ]


def _inner(model: TrainedModel) -> Any:
    """The network of diffusers itself, where the run's is one, asked of events alone; None of any other."""
    inner = getattr(model.network, "inner", None)
    if inner is None or not hasattr(inner, "save_pretrained") or not hasattr(model.network, "stride"):
        return None
    return None if model.denoiser.frequency_features else inner


def _stock(model: TrainedModel) -> list[float] | None:
    """β_i, where the process is DDPM's in coordinates of any kind, and the network is told as there; None where not."""
    diffusion, predicted = model.diffusion, str(model.config.objective.parametrization)
    i = torch.arange(diffusion.N + 1)
    if model.config.conditions or predicted not in PREDICTIONS or not diffusion.alike:
        return None
    if type(_inner(model)).__name__ != "UNet2DModel" or float(model.network.stride) != 1:  # type: ignore[arg-type]
        return None
    log_a, log_s = (
        scale(i).reshape(len(i), -1)[:, 0].cpu().double() for scale in (diffusion.scales.log_a, diffusion.scales.log_s)
    )
    preserving = torch.allclose((2 * log_a).exp() + (2 * log_s).exp(), torch.ones(()).double(), atol=1e-9)
    if not preserving or log_a[0] != 0 or model.config.data.value_range not in (None, (-1.0, 1.0), (-1, 1)):
        return None
    betas: list[float] = (-torch.expm1(2 * log_a.diff())).tolist()
    return betas


def _pipeline_of_stock(model: TrainedModel, inner: Any, betas: Sequence[float], out: Path) -> list[str]:
    diffusers: Any = import_module("diffusers")
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=model.diffusion.N,
        timestep_spacing="trailing",
        trained_betas=list(betas),
        prediction_type=PREDICTIONS[str(model.config.objective.parametrization)],
        clip_sample=model.config.sampler.clip and model.config.data.value_range is not None,
    )
    diffusers.DDPMPipeline(unet=inner, scheduler=scheduler).save_pretrained(str(out))
    return [
        "from diffusers import DiffusionPipeline",
        'pipe = DiffusionPipeline.from_pretrained("DIR")',
        "images = pipe(batch_size=4).images",
    ]


def _absent(model: TrainedModel) -> int | None:
    """The class that stands for none; None of a network that is told of none; raises `ConfigError` for other conditions."""
    conditions = model.config.conditions
    if not conditions:
        return None
    absent = [condition.absent for condition in conditions.values()]
    if len(absent) > 1 or absent[0].ndim or absent[0].is_floating_point():
        raise ConfigError(
            f"a pipeline of diffusers is told of classes alone, and this network of {', '.join(conditions)}",
            details=["the network itself goes with --to onnx, its weights with --to safetensors"],
            fix="export it with --to safetensors",
        )
    return int(absent[0])


def _tables(model: TrainedModel, sampler: Sampler) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a sampler does, in numbers."""
    diffusion = model.diffusion.to("cpu")
    if sampler.prior == "data":
        raise ConfigError(
            f"the sampler {sampler.spec} begins from events of the data, which do not travel",
            fix="choose another beginning: --prior matched",
            subject="sampler.prior",
        )
    plan = sampler.plan(diffusion)
    predicts = Parametrization(model.config.objective.parametrization)
    levels = [diffusion.at(update.i) for update in plan]
    end = diffusion.at(diffusion.N)
    matched = sampler.prior == "matched"
    tables = {
        "i": torch.tensor([update.i for update in plan]),
        "draws": torch.tensor([update.e is not None for update in plan]),
        "a": _stacked([at.a for at in levels]),
        "s": _stacked([at.s for at in levels]),
        "prior": _stacked([at.log_a < LOG_A_PRIOR for at in levels]),
        "m": end.m,
        "c": end.c,
        "prior.mean": end.a * end.m if matched else torch.zeros(()),
        "prior.std": end.v.sqrt() if matched else end.s,
    }
    if predicts is Parametrization.RESIDUAL:
        tables["before.a"] = _stacked([at.before.a for at in levels])
        tables["before.prior"] = _stacked([at.before.log_a < LOG_A_PRIOR for at in levels])
    if str(predicts) not in DECODED:
        tables |= _views(predicts, [diffusion.at(update.i, torch.float64) for update in plan], diffusion.event_shape)
    memory = max(len(update.past) for update in plan)
    tables |= _coefficients(plan, memory) | _basis(model)
    clip = model.config.data.value_range if sampler.clip else None
    about = {
        "_class_name": "GendiffScheduler",
        "sampler": sampler.spec,
        "N": diffusion.N,
        "event_shape": list(diffusion.event_shape),
        "parametrization": str(predicts),
        "clip": None if clip is None else list(clip),
        "memory": memory,
    }
    return about, {name: table.detach().clone().contiguous() for name, table in tables.items()}


def _views(predicts: Parametrization, levels: Sequence[Level], event_shape: EventShape) -> dict[str, Tensor]:
    """What x̂_0, ε̂ and what the network sees are of its output and of ``x̄``: affine, component by component.

    Raises `ConfigError` for a parametrization that is not: a table does not hold it.
    """
    generator = stream(0, "export")
    output, x_bar = torch.randn(2, 1, *event_shape, generator=generator, dtype=torch.float64)
    zero, one = torch.zeros_like(output), torch.ones_like(output)
    columns: dict[str, list[Tensor]] = {}
    for at in levels:

        def views(output: Tensor, x_bar: Tensor, at: Level = at) -> dict[str, Tensor]:
            pivot = predicts.to_pivot(output, x_bar, at)
            return {"x_0": pivot.x_0, "eps": pivot.eps, "sees": predicts.sees(x_bar, at)}

        rest, of_output, of_x = views(zero, zero), views(one, zero), views(zero, one)
        for view, value in views(output, x_bar).items():
            parts = {"1": rest[view], "out": of_output[view] - rest[view], "x": of_x[view] - rest[view]}
            affine = parts["1"] + parts["out"] * output + parts["x"] * x_bar
            if not torch.allclose(affine, value, rtol=1e-6, atol=1e-6):
                raise ConfigError(
                    f"what the network predicts, {predicts}, is not affine in its output and in x_i",
                    details=["a pipeline of diffusers has a table of numbers for it"],
                    fix="export its weights: --to safetensors",
                    subject="objective.name",
                )
            for name, part in parts.items():
                columns.setdefault(f"{view}.{name}", []).append(part[0])
    return {name: _stacked(values).float() for name, values in columns.items()}


def _coefficients(plan: Sequence[Update], memory: int) -> dict[str, Tensor]:
    columns: dict[str, list[Tensor | None]] = {
        name: [getattr(update, name) for update in plan] for name in ("constant", "p", "e")
    }
    for name in ("q", "b"):
        columns[f"{name}.0"] = [getattr(update, name) for update in plan]
        for ago in range(1, memory + 1):
            columns[f"{name}.{ago}"] = [
                getattr(update.past[ago - 1], name) if len(update.past) >= ago else None for update in plan
            ]
    return {
        name: _stacked([torch.zeros(()) if value is None else value for value in column]).float()
        for name, column in columns.items()
        if any(value is not None for value in column)
    }


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*values)) if values else torch.zeros(0)


def _basis(model: TrainedModel) -> dict[str, Tensor]:
    """The matrices of U in float32, as `GendiffScheduler` reads them; none of the identity."""
    diffusion = model.diffusion.to("cpu")
    tensors = stored.rotation_tensors(diffusion.rotation, diffusion.event_shape)
    if "at" in tensors:
        tensors["dense"] = stored.dense(tensors["at"], tensors["values"], int(tensors["size"]))
    return {name: U.float() for name, U in tensors.items() if name.startswith(("axis", "dense", "channels"))}


class _Asked(nn.Module):
    """The network of a run with positional arguments and its features, as a program has it."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = model.network
        self.names = list(model.config.conditions)
        self.features = model.denoiser.frequency_features
        self.rotation = model.diffusion.rotation

    def forward(self, x: Tensor, i: Tensor, *told: Tensor) -> Tensor:
        if self.features:
            x = torch.cat([x, self.rotation.rotate(x)], dim=1)
        output: Tensor = self.network(x, i, dict(zip(self.names, told, strict=True))) if told else self.network(x, i)
        return output


def _example(model: TrainedModel) -> tuple[Tensor, ...]:
    """Two events, steps and what is told: the shape of any call but for the batch."""
    told = [condition.absent.expand(2, *condition.absent.shape) for condition in model.config.conditions.values()]
    inputs = (torch.zeros(2, *model.diffusion.event_shape), torch.ones(2), *told)
    return tuple(tensor.contiguous().to(model.device) for tensor in inputs)


def program(model: TrainedModel) -> torch.export.ExportedProgram:
    """The network as a program of torch, for any batch; raises `PluginError` where torch makes none of it."""
    example = _example(model)
    batch = torch.export.Dim.AUTO
    told = tuple({0: batch} for _ in example[2:])
    shapes: tuple[Any, ...] = ({0: batch}, {0: batch}, *([told] if told else []))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(_Asked(model).eval(), example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises whatever the network trips over
        raise _no_program(model, error) from error
    if torch.__version__.startswith("2.9."):  # whose checks of inputs do not know what a network is told, and fail
        exported._guards_code = []
    return exported


def _no_program(model: TrainedModel, error: Exception) -> PluginError:
    return PluginError(
        f"torch makes no program of the network '{model.config.model.name}': {reason(error)}",
        details=["a program has no Python: the network must not look at the values that it is asked of"],
        fix="export its weights and load them into a network of your own: --to safetensors",
    )


# --- safetensors, onnx ------------------------------------------------------------------------------------------------


def _safetensors(model: TrainedModel, out: Path, sampler: Sampler) -> list[str]:
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.network.state_dict().items()}
    put(out / "model.safetensors", safetensors.torch.save(weights, {"format": "pt"}))
    config = model.config
    put(out / "process.safetensors", stored.dump(model.diffusion.to("cpu"), config.velocity, config.rotation))
    facts = {**_facts(model), "sampler": sampler.table(), "config": model.run.info["config"]}
    put(out / "config.json", json.dumps(facts, indent=1).encode())
    return ["from safetensors.torch import load_file", 'weights = load_file("DIR/model.safetensors")']


def _onnx(model: TrainedModel, out: Path, sampler: Sampler) -> list[str]:
    for library in ("onnx", "onnxscript"):
        extra(library, "a graph", name="onnx")
    names = ["x", "i", *model.config.conditions]
    exported = program(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                exported,
                (),
                str(out / ONNX),
                input_names=names,
                output_names=["output"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # as above
        raise _no_program(model, error) from error
    put(out / "config.json", json.dumps({**_facts(model), "inputs": names}, indent=1).encode())
    return ["import onnxruntime", 'session = onnxruntime.InferenceSession("DIR/network.onnx")']


FORMATS: Mapping[str, Callable[[TrainedModel, Path, Sampler], list[str]]] = {
    "diffusers": _diffusers,
    "safetensors": _safetensors,
    "onnx": _onnx,
}


def _facts(model: TrainedModel) -> dict[str, Any]:
    """What the numbers are, for who reads them."""
    return {
        "gendiff": _version("gendiff"),
        "step": model.step,
        "weights": model.weights,
        "weights_hash": model.weights_hash,
        "event_shape": list(model.diffusion.event_shape),
        "N": model.diffusion.N,
        "parametrization": str(model.config.objective.parametrization),
        "value_range": model.config.data.value_range,
        "frequency_features": model.denoiser.frequency_features,
        "conditions": {name: condition.table() for name, condition in model.config.conditions.items()},
    }


def card(model: TrainedModel, opening: Sequence[str]) -> str:
    """The model card: what the Hub reads first, what it is, and how it is opened."""
    config = model.config
    rows = [
        (kind, f"`{getattr(config, kind).spec}`") for kind in ("rotation", "velocity", "objective", "model", "data")
    ]
    rows += [
        ("steps of the process", str(model.diffusion.N)),
        ("events", str(model.diffusion.event_shape)),
        ("weights", f"`{model.weights}` of step {model.step}, `{model.weights_hash}`"),
    ]
    return "\n".join(
        [
            "---",
            "tags: [gendiff, diffusion]",
            "---",
            "",
            f"# {model.run.path.resolve().name}",
            "",
            "A generalized diffusion trained with gendiff.",
            "",
            "| part | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            "```python",
            *opening,
            "```",
            "",
        ]
    )


def _copied(name: str, folder: Path) -> None:
    put(folder / name, (resources.files(TRAVELLING) / name).read_bytes())


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
