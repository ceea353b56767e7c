"""Which layers stay in memory, and through which buffers the others stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.search.layouts import Layouts
from ollm_widgets.planning.search.objective import speeds_for
from ollm_widgets.planning.search.rings import least_layers_bytes, well_fed_bytes
from ollm_widgets.planning.search.room import Counts, Room
from ollm_widgets.planning.weights import WeightSizes

__all__ = [
    "Counts",
    "LayoutBook",
    "Layouts",
    "Measured",
    "Room",
    "least_layers_bytes",
    "well_fed_bytes",
]

# What was measured of a device; of the disk too, where layers are read from it in each pass.
Measured: TypeAlias = Callable[[Device, bool], Bandwidth | None]


class LayoutBook:
    """Keeps what was worked out of a model's layers while one plan is made.

    Parameters
    ----------
    measure
        Gives what was measured of a device, when a choice first depends on it.
    """

    def __init__(self, measure: Measured) -> None:
        self._measure = measure
        self._layouts: dict[tuple[object, ...], Layouts] = {}

    def speeds(self, device: Device, *, from_disk: bool) -> Bandwidth:
        """Return the speeds of a device, nominal where they were not measured."""
        return speeds_for(device.kind, self._measure(device, from_disk))

    def layouts(
        self,
        sizes: WeightSizes,
        dtype: DType,
        device: Device,
        *,
        packing: bool = True,
        repeats: bool = True,
    ) -> Layouts:
        """Return what finds placements of these layers."""
        key = (sizes, dtype, device.name, packing, repeats)
        if key not in self._layouts:
            self._layouts[key] = Layouts(
                sizes,
                dtype,
                device.kind,
                lambda from_disk: self._measure(device, from_disk),
                packing=packing,
                repeats=repeats,
            )
        return self._layouts[key]
