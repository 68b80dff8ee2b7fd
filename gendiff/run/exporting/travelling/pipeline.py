"""The pipeline of an exported run."""

# mypy: disable-error-code="attr-defined,no-untyped-call,misc,unused-ignore"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor


class GendiffPipeline(DiffusionPipeline):
    """Samples a generalized diffusion.

    Args:
        unet: the network: a model of diffusers, or a program of torch.
        scheduler: the tables of its sampler.

    """

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        num_inference_steps: int | None = None,
        latents: Tensor | None = None,
        noise: Callable[[], Tensor] | None = None,
        class_labels: Tensor | list[int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw events.

        Args:
            latents: event-space noise ``(B, C, *spatial)`` to begin from; left out, it is drawn.
            noise: gives the noise of later steps; left out, it is drawn from ``generator``.
            class_labels: of each event; left out, the network is told none.
            num_inference_steps: of no choice: the tables are those of one number.
            output_type: ``pil``, ``np`` (values in [0, 1]) or ``pt`` (events as the network knows them).

        """
        scheduler, steps = self.scheduler, self.scheduler.steps
        if num_inference_steps not in (None, len(steps)):
            raise ValueError(f"the tables are of {len(steps)} steps: export again with --steps {num_inference_steps}")
        device = self.device
        scheduler.to(device)
        shape = (batch_size if latents is None else len(latents), *scheduler.config["event_shape"])
        draw = noise or (lambda: self._drawn(shape, generator, device))
        labels = self._labels(class_labels, shape[0], device)
        x_bar = scheduler.prior(draw() if latents is None else latents.to(device, torch.float32))
        for k, i in enumerate(self.progress_bar(steps)):
            output = self._asked(scheduler.scale_model_input(x_bar, k), float(i), labels)
            x_bar = scheduler.step(output, k, x_bar, draw().to(device) if scheduler.draws(k) else None)
        events = scheduler.unrotate(x_bar).cpu()
        if output_type != "pt":
            events = (events / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()
            events = self.numpy_to_pil(events) if output_type == "pil" else events
        return ImagePipelineOutput(images=events) if return_dict else (events,)

    def _drawn(self, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
        place = device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=place).to(device)

    def _labels(self, given: Tensor | list[int] | None, count: int, device: torch.device) -> Tensor | None:
        """The class of each event; the one that stands for none, where none is given."""
        absent = self.scheduler.config["absent"]
        if absent is None:
            if given is not None:
                raise ValueError("this network knows no classes")
            return None
        labels = torch.full((count,), absent) if given is None else torch.as_tensor(given)
        if labels.shape != (count,) or labels.min() < 0 or labels.max() > absent:
            raise ValueError(f"class_labels: {count} whole numbers from 0 to {absent}; {absent} stands for none")
        return labels.to(device)

    def _asked(self, x: Tensor, i: float, labels: Tensor | None) -> Tensor:
        config = self.scheduler.config
        if not config["native"]:
            output: Tensor = self.unet(
                x, torch.full((len(x),), i, device=x.device), *([] if labels is None else [labels])
            )
            return output
        t = torch.full((len(x),), (i - 1) * config["stride"], device=x.device)
        output = self.unet(x, t, class_labels=labels, return_dict=False)[0]
        return output[:, : x.shape[1]]
