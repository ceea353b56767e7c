"""The layouts by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.kv.layouts.chunks import Chunks
from ollm_widgets.kv.layouts.journal import Journal
from ollm_widgets.kv.layouts.pages import Pages
from ollm_widgets.kv.layouts.records import RecordFiles
from ollm_widgets.kv.layouts.segments import Segments

if TYPE_CHECKING:
    from ollm_widgets.planning.kv_presets import KVLayout


def open_layout(layout: KVLayout, folder: Path, *, record_bytes: int, writer: str) -> RecordFiles:
    """Keep records in files of `folder`.

    Parameters
    ----------
    layout
        ``chunks``, ``pages``, ``segments`` or ``journal``.
    folder
        Made if it does not exist.
    record_bytes
        What most records take: the size of a slot of ``pages``. Others may be of any size.
    writer
        Begins the names of the files written here; no two that are open may share it. Letters,
        digits, ``-`` and ``_``.

    Raises
    ------
    ValueError
        For a layout that has no files, or a `writer` that cannot begin a file name.
    """
    if layout == "chunks":
        return Chunks(folder, writer)
    if layout == "pages":
        return Pages(folder, writer, record_bytes)
    if layout == "segments":
        return Segments(folder, writer)
    if layout == "journal":
        return Journal(folder, writer)
    raise ValueError(f"{layout!r} keeps nothing in files; use chunks, pages, segments or journal.")
