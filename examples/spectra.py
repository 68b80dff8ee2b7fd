"""Sounds and fields: does what a small network samples have the power spectrum of what it was trained on?

    python examples/spectra.py sound     # pink noise, wav files of 16 bits, pieces of 64 samples
    python examples/spectra.py field     # random fields with power k^-3, HDF5 (without h5py: npz), 16 x 16

Writes the data, trains, samples, and prints the power of samples and data in each band of frequencies, in decibels.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile

import gendiff
from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.frequency import dct_frequency, radius

BANDS = 6
RATE = 8000  # samples per second


def coloured(shape: tuple[int, ...], power: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise on a torus with the power spectrum ``k^-power`` and no mean, std 1, over all axes of ``shape``."""
    k = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")))
    k.flat[0] = np.inf
    v = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * k ** (-power / 2)).real
    return v / v.std()


def write_sounds(folder: Path, rng: np.random.Generator) -> str:
    """16 files of 2 s, about 4000 pieces that do not overlap."""
    for number in range(16):
        v = np.clip(0.25 * coloured((2 * RATE,), 1.0, rng), -1, 1)
        wavfile.write(folder / f"{number:02d}.wav", RATE, (v * 32767).astype(np.int16))
    return f"wav:path={folder},samples=64"


def write_fields(folder: Path, rng: np.random.Generator) -> str:
    """4096 fields, as one array."""
    v = np.stack([280 + 5 * coloured((16, 16), 3.0, rng) for _ in range(4096)]).astype(np.float32)
    try:
        import h5py
    except ImportError:
        np.savez(folder / "fields.npz", temperature=v)
        return f"array:path={folder}/fields.npz,key=temperature,layout=nhw"
    with h5py.File(folder / "fields.h5", "w") as file:
        file.create_dataset("temperature", data=v, chunks=(64, 16, 16))
    return f"array:path={folder}/fields.h5,key=temperature,layout=nhw"


def band_power(x: torch.Tensor) -> np.ndarray:
    """Mean square of the DCT coefficients of events ``(n, C, *spatial)`` in `BANDS` bands of ρ, equally wide in log ρ, in dB."""
    sizes = x.shape[2:]
    power = apply_per_axis(x.double(), [dct_matrix(n) for n in sizes]).square().mean((0, 1)).flatten()
    rho = radius([dct_frequency(n) for n in sizes]).flatten()
    edges = torch.logspace(np.log10(0.99 * np.pi / max(sizes)), np.log10(1.01 * float(rho.max())), BANDS + 1)
    return np.array([10 * np.log10(float(power[(rho >= a) & (rho < b)].mean())) for a, b in pairwise(edges)])


def main() -> None:
    """Print one row for each band, and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sound", "field"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--n", type=int, default=1024, help="samples")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write = {"sound": write_sounds, "field": write_fields}[given.kind]
        spec = write(Path(folder), np.random.default_rng(0))
        run = gendiff.train(
            spec,
            rotation="dct",
            model="mlp:width=256,depth=3,frequency_features=true",
            steps=given.steps,
            batch=128,
            lr=1e-3,
            out=Path(folder) / "run",
        )
        data = gendiff.Data(spec)
        x = torch.stack([data[k] for k in range(len(data))])
        y = run.sample(given.n, seed=0)
    own, theirs = band_power(x), band_power(y)
    print("band   data/dB  samples/dB  difference")
    for band, (p, q) in enumerate(zip(own, theirs, strict=True)):
        print(f"{band:4d} {p:9.2f} {q:11.2f} {q - p:+11.2f}")
    print(f"largest difference {np.abs(theirs - own).max():.2f} dB")


if __name__ == "__main__":
    main()
