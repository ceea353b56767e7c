"""The disk that a model's files are on, beside the speeds of the device that computes."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.profile.disk import disk_speeds_of, known_disk_speeds


def beside_disk(bandwidth: Bandwidth, folder: Path | None, *, streams: bool) -> Bandwidth:
    """Add the speeds of the disk that holds a model, where the bandwidth has none of them.

    Parameters
    ----------
    folder
        The model's files; None where they are not here.
    streams
        Whether layers are read in each pass, which is worth a second of measuring. A load alone
        is predicted from what is remembered.
    """
    if folder is None or bandwidth.disk_bytes_per_s or bandwidth.page_cache_bytes_per_s:
        return bandwidth
    return bandwidth.with_disk(disk_speeds_of(folder) if streams else known_disk_speeds(folder))
