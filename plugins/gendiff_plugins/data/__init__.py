"""Data: where events come from."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the built-in data."""
    here = "gendiff_plugins.data"
    clothing = "the articles of clothing of Fashion-MNIST, 1x28x28, from its own files"
    packed = "a set that gendiff data prepare made, in one file that is mapped into memory"
    lsun = "the pictures of an LSUN category, from its LMDB database, resized to one size"
    huggingface = "the pictures in a column of a Hugging Face data set, resized to one size"
    array = "signals, fields or volumes: one array in npy, npz, HDF5 or Zarr"
    wav = "pieces of one length of the wav files in a folder, or of one file"
    webdataset = "the pictures in webdataset shards, tar archives, resized to one size"
    parquet = "the pictures in a column of parquet files, resized to one size"
    return [
        Lazy("data", "digits", f"{here}.digits:Digits", "1797 handwritten digits, 8x8 grey, part of the package"),
        Lazy("data", "emoji", f"{here}.emoji:Emoji", "1870 emoji on white, 64x64 colour, part of the package"),
        Lazy("data", "dead-leaves", f"{here}.dead_leaves:DeadLeaves", "endless scenes of occluding disks, near 1/f²"),
        Lazy("data", "gaussian-field", f"{here}.gaussian_field:GaussianField", "endless fields with an exact spectrum"),
        Lazy("data", "folder", f"{here}.folder:Folder", "the image files below a folder, resized to one size"),
        Lazy("data", "photos", f"{here}.photos:Photos", "crops of the photographs below a folder, at any scale"),
        Lazy("data", "zip", f"{here}.zip:Zip", "the image files in a zip archive, resized to one size"),
        Lazy("data", "npy", f"{here}.npy:Npy", "the pictures of one NumPy array, in a file made by numpy.save"),
        Lazy("data", "packed", f"{here}.packed:Packed", packed),
        Lazy("data", "mnist", f"{here}.idx:Mnist", "the handwritten digits of MNIST, 1x28x28, from its own files"),
        Lazy("data", "fashion-mnist", f"{here}.idx:FashionMnist", clothing),
        Lazy("data", "cifar10", f"{here}.cifar10:Cifar10", "the pictures of CIFAR-10, 3x32x32, from its own archive"),
        Lazy("data", "lsun", f"{here}.lsun:Lsun", lsun),
        Lazy("data", "huggingface", f"{here}.huggingface:HuggingFace", huggingface),
        Lazy("data", "parquet", f"{here}.parquet:Parquet", parquet),
        Lazy("data", "webdataset", f"{here}.webdataset:WebDataset", webdataset),
        Lazy("data", "array", f"{here}.array:Array", array),
        Lazy("data", "wav", f"{here}.wav:Wav", wav),
    ]
