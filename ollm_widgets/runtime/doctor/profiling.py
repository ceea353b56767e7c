"""The machine's full measurement, with what only the layers above planning can measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.planning.profile.machine import MachineProfile
from ollm_widgets.planning.profile.machine import profile_machine as profile_wires
from ollm_widgets.planning.profile.timing import shortest_s

if TYPE_CHECKING:
    import torch

    from ollm_widgets.models.job_control import CancelFlag, Progress
    from ollm_widgets.planning.devices import Device, Machine

# 256 MiB of bfloat16, about a layer of a model of 8 billion parameters.
_ELEMENTS = 128 << 20
_DECODINGS = 4
_WITHIN_S = 0.05


def profile_machine(
    folder: Path | None = None,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
    *,
    machine: Machine | None = None,
) -> MachineProfile:
    """Measure every device and the disk, in place of what was remembered: a few seconds.

    Plans made afterwards rest on it. Nothing else should run meanwhile.

    Parameters
    ----------
    folder
        A model's folder, whose files are read; where there are none of 32 MiB, and by default,
        128 MiB are written to the cache folder for it and deleted again.
    progress
        Called as ``progress(stage, done, total)`` with counts of stages.
    cancel
        Looked at between stages.
    machine
        What there is; looked at now when it is not given.

    Raises
    ------
    Cancelled
        When `cancel` was set; stages that were done are remembered.
    """
    return profile_wires(folder, progress, cancel, unpack=unpacked_bytes_per_s, machine=machine)


def unpacked_bytes_per_s(device: Device) -> float | None:
    """Measure the raw bytes a second that a GPU makes of packed layers; None on other devices.

    None also where it has no room for half a gigabyte, or a library that reads models is missing.
    """
    if device.kind != "cuda":
        return None
    import torch

    try:
        return _unpacked_bytes_per_s(torch.device(device.name))
    except (ImportError, torch.OutOfMemoryError):
        return None
    finally:
        torch.cuda.empty_cache()


def _unpacked_bytes_per_s(target: torch.device) -> float | None:
    import torch

    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
    from ollm_widgets.weights.packing.packing import pack_layer, unpack_into

    recipe = TensorRecipe("weights", torch.bfloat16, (_ELEMENTS,), (), None)
    layout = LayerLayout.of("", [recipe])
    with torch.inference_mode(), torch.cuda.device(target):
        # Trained weights are close to normally distributed, which decides what packs.
        weights = torch.randn(_ELEMENTS, device=target, dtype=torch.bfloat16).mul_(0.02)
        raw = weights.view(torch.uint8)
        packed = pack_layer(raw, layout)
        if packed is None:
            return None

        def decode() -> None:
            for _ in range(_DECODINGS):
                unpack_into(packed.blob, packed.format, raw)
            torch.cuda.current_stream().synchronize()

        decode()  # the first run compiles the kernels
        return _DECODINGS * raw.numel() / shortest_s(decode, _WITHIN_S)
