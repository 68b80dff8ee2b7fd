"""Rotations: the bases in which a corruption can be diagonal."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the rotations."""
    here = "gendiff_plugins.rotations"
    return [
        Lazy("rotation", "identity", f"{here}.identity:Identity", "pixels themselves: U = I, D = 1"),
        Lazy("rotation", "dct", f"{here}.dct:DCT", "orthonormal DCT-II of every spatial axis"),
        Lazy(
            "rotation",
            "blur-eigen",
            f"{here}.blur_eigen:BlurEigen",
            "the paper's basis: eigenvectors of a zero-padded blur",
        ),
        Lazy("rotation", "haar", f"{here}.haar:Haar", "orthonormal Haar wavelets of every spatial axis"),
        Lazy("rotation", "hadamard", f"{here}.hadamard:Hadamard", "Walsh-Hadamard in sequency order: square waves"),
        Lazy(
            "rotation",
            "hartley",
            f"{here}.hartley:Hartley",
            "the real Fourier transform of every axis: circular borders",
        ),
        Lazy("rotation", "dst", f"{here}.dst:DST", "orthonormal discrete sine transform: odd borders"),
        Lazy(
            "rotation",
            "random-orthogonal",
            f"{here}.random_orthogonal:RandomOrthogonal",
            "a random orthogonal matrix for each size of axis",
        ),
        Lazy("rotation", "block-dct", f"{here}.block_dct:BlockDCT", "orthonormal DCT-II of blocks, as in JPEG"),
        Lazy("rotation", "ycbcr", f"{here}.channels:YCbCr", "luma and chroma: JPEG's YCbCr, made orthonormal"),
        Lazy(
            "rotation",
            "channel-pca",
            f"{here}.channels:ChannelPCA",
            "principal components of the channels of the data: colour PCA",
        ),
        Lazy("rotation", "klt", f"{here}.klt:KLT", "principal components of patches of the data (Karhunen-Loève)"),
    ]
