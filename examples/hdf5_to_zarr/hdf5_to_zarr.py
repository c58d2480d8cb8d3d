"""Copy a dataset of an HDF5 file into a Zarr array, block by block."""

import argparse
from functools import partial
from pathlib import Path

import h5py
import zarr

import snakemake_blocks as sb


def copy(source, dataset, target, block):
    """Copy what the block writes; several workers may read one HDF5 file."""
    array = zarr.open_array(target, mode="r+")
    where = (block.write_roi / sb.Coordinate(array.attrs["voxel_size"])).to_slices()
    with h5py.File(source, "r") as file:
        array[where] = file[dataset][where]


def prepare(source, dataset, target, block):
    """Make the Zarr array, with chunks as large as a block; return its Roi and voxel size."""
    with h5py.File(source, "r") as file:
        data = file[dataset]
        voxel_size = sb.Coordinate(int(r) for r in data.attrs.get("resolution", [1] * data.ndim))
        if not Path(target).exists():
            made = zarr.create_array(target, shape=data.shape, chunks=block, dtype=data.dtype)
            made.attrs.update(offset=[0] * data.ndim, voxel_size=list(voxel_size))
        return sb.Roi((0,) * data.ndim, voxel_size * sb.Coordinate(data.shape)), voxel_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="e.g. sample_A_20160501.hdf")
    parser.add_argument("dataset", help="e.g. volumes/raw")
    parser.add_argument("target", help="e.g. sample.zarr/raw")
    parser.add_argument("--block", nargs="+", type=int, default=[20, 128, 128], help="in voxels")
    parser.add_argument("--num_workers", type=int, default=2)
    asked = parser.parse_args()

    total, voxel_size = prepare(asked.source, asked.dataset, asked.target, asked.block)
    block = sb.Roi((0,) * total.dims, voxel_size * sb.Coordinate(asked.block))
    task = sb.Task(
        "hdf5_to_zarr",
        total_roi=total,
        read_roi=block,
        write_roi=block,
        process_function=partial(copy, asked.source, asked.dataset, asked.target),
        read_write_conflict=False,
        num_workers=asked.num_workers,
        fit="shrink",  # the last blocks end where the array does
    )
    if not sb.run_blockwise([task], run_directory="blocks"):
        raise SystemExit("some blocks are missing; run it again")
