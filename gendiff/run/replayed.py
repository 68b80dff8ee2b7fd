"""Replayed: a network that is asked again and again for batches of one shape, recorded where the device can."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from threading import Lock
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from gendiff.condition import Given
from gendiff.denoiser import Denoiser
from gendiff.machine.recording import Recorded, Recorder

WARM = 2  # batches that are not recorded: cuDNN chooses its algorithms, a compiler compiles
_recordings: WeakKeyDictionary[Denoiser, _Recording] = WeakKeyDictionary()  # the last of each, for as long as it lives
_said = set[str]()  # why networks are not recorded: a run asks for its previews again and again


class Replayed(nn.Module):
    """The same function as ``denoiser``; where no gradient is asked for, batches of one shape are recorded and replayed.

    The recording is that of the denoiser, for whoever asks it next too: pictures may be drawn a few at a time. It is made anew
    where the shape is another one, or the network: its weights elsewhere, its precision, how pictures lie in memory.
    """

    def __init__(self, denoiser: Denoiser, recorder: Recorder) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.recorder = recorder
        self.asked = _what_is_asked(denoiser)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The raw output in event space, as of the denoiser."""
        condition = condition or {}
        if torch.is_grad_enabled():
            output: Tensor = self.denoiser(x, i, condition)
            return output
        inputs = {"x": x, "i": i, **condition}
        key = (self.recorder, self.asked, *((name, value.shape, value.dtype) for name, value in inputs.items()))
        recording = _recordings.get(self.denoiser)
        if recording is None or recording.key != key:
            recording = _recordings[self.denoiser] = _Recording(self.denoiser, self.recorder, key, x, i, condition)
        return recording(x, i, condition)


class _Recording:
    """The recording of a denoiser, which it does not keep alive; ``key`` is what it holds for."""

    def __init__(
        self, denoiser: Denoiser, recorder: Recorder, key: Hashable, x: Tensor, i: Tensor, condition: Given
    ) -> None:
        self.denoiser = ref(denoiser)
        self.holds = denoiser.network, denoiser.diffusion  # whose memory it reads
        self.key = key
        with torch.inference_mode(False):  # it is written to in other modes too
            self.x, self.i = torch.empty_like(x), torch.empty_like(i)
            self.condition = {name: torch.empty_like(value) for name, value in condition.items()}
        self.output = torch.empty(0)
        self.recorded = Recorded(recorder, WARM)
        self.alone = Lock()  # two threads would write to the same memory

    def __call__(self, x: Tensor, i: Tensor, condition: Given) -> Tensor:
        with self.alone:
            self.x.copy_(x)
            self.i.copy_(i)
            for name, value in condition.items():
                self.condition[name].copy_(value)
            self.recorded(self.ask)
            if self.recorded.why_not:
                _say(self.recorded.why_not)
            return self.output.clone()  # the next batch is written to the same memory

    @torch.no_grad()
    def ask(self) -> None:
        denoiser = self.denoiser()
        assert denoiser is not None  # it is asked through it
        self.output = denoiser(self.x, self.i, self.condition)


def _what_is_asked(denoiser: Denoiser) -> Hashable:
    """What a recording of a denoiser holds for, shapes aside: where everything is that it reads, and how."""
    network = denoiser.network
    places = tuple(tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers()))
    how = denoiser.autocast, denoiser.channels_last, denoiser.frequency_features, network.training
    return id(network), id(denoiser.diffusion), how, places


def _say(why_not: str) -> None:
    if why_not not in _said:
        _said.add(why_not)
        warnings.warn(
            f"the network is launched kernel by kernel, for it could not be recorded: {why_not}", stacklevel=4
        )
