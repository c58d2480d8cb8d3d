"""Stores a volume as igneous reads it: ``pyramid_igneous.py FILE.npy FOLDER CHUNK COMPRESSION``."""

from __future__ import annotations

import sys

import numpy as np
from cloudvolume import CloudVolume


def main() -> None:
    """Do what the command line says."""
    file, folder, chunk, compression = sys.argv[1:]
    whole = np.load(file, mmap_mode="r")
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="image",
        data_type=str(whole.dtype),
        encoding="raw",
        resolution=(10, 10, 10),
        voxel_offset=(0, 0, 0),
        volume_size=whole.shape[::-1],
        chunk_size=(int(chunk),) * 3,
    )
    compress = "gzip" if compression == "gzip" else False
    volume = CloudVolume(f"file://{folder}", info=info, compress=compress, progress=False)
    volume.commit_info()
    for z in range(0, len(whole), int(chunk)):
        volume[:, :, z : z + int(chunk)] = np.ascontiguousarray(whole[z : z + int(chunk)].T)


if __name__ == "__main__":
    main()
