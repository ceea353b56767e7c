"""Which chosen expert goes to which row of a workspace, and the copy that brings it there.

Both steps read the router's choice where it is computed. On CUDA they are kernels that neither
wait nor allocate: an address table says where each expert lies, in page-locked host memory or in
the accelerator's cache of hot experts, and the kernel reads from there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math

import torch


def kernels_available(device: torch.device) -> bool:
    """Whether the fetch can run on the device without a trip to the CPU."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def assign_slots(
    index: torch.Tensor,
    remapped: torch.Tensor,
    chosen: torch.Tensor,
    usage: torch.Tensor,
    experts: int,
) -> None:
    """Give each distinct expert of a choice a slot, in the order of the experts' numbers.

    The order matters: implementations that sum over experts do so by number, and the sum keeps
    its bits only if the slots are in the same order.

    Parameters
    ----------
    index
        Integers ``[pairs]``: the experts that the router chose. A number outside of
        ``[0, experts)`` stands for no expert.
    remapped
        int64 ``[pairs]``, written: the slot of each; ``len(chosen)`` for no expert.
    chosen
        int64 ``[slots]``, written: the expert of each slot, -1 for an unused one. At least
        ``min(pairs, experts)`` slots.
    usage
        int32 ``[experts]``: one is added for every expert that has a slot.
    experts
        How many there are.
    """
    if index.device.type == "cuda" and index.numel() <= _most_pairs():
        from ollm_widgets.weights.experts import kernels as expert_kernels

        expert_kernels.assign(index, remapped, chosen, usage, experts)
        return
    slots = chosen.numel()
    number = torch.where((index >= 0) & (index < experts), index, experts).long()
    hit = torch.zeros(experts + 1, dtype=torch.int64, device=index.device)
    hit.scatter_(0, number, 1)
    hit = hit[:experts]
    usage.add_(hit)
    # Experts that were not chosen share one slot past the end, which is cut off.
    slot = torch.where(hit > 0, hit.cumsum(0) - 1, slots)
    own = torch.arange(experts, device=index.device)
    padded = torch.full((slots + 1,), -1, dtype=torch.int64, device=index.device)
    chosen.copy_(padded.scatter_(0, slot, own)[:slots])
    # Without `index_select` on a padded table a number for no expert would read past its end.
    remapped.copy_(torch.cat((slot, slot.new_full((1,), slots))).index_select(0, number))


def gather_rows(
    table: torch.Tensor, chosen: torch.Tensor, out: torch.Tensor, alignment_bytes: int
) -> None:
    """Copy the chosen experts' parts of one parameter into rows.

    Parameters
    ----------
    table
        int64 ``[experts]``: the address of each expert's part, as the device sees it.
    chosen
        int64 ``[rows]``: the expert of each row; rows with -1 are left as they are.
    out
        ``[rows, ...]``, contiguous, on the same device.
    alignment_bytes
        16, 8, 4, 2 or 1: divides all addresses and the size of a row.
    """
    if out.device.type == "cuda":
        from ollm_widgets.weights.experts import kernels as expert_kernels

        expert_kernels.gather(table, chosen, out, alignment_bytes)
        return
    row_bytes = out[0].numel() * out.element_size()
    for row, expert in enumerate(chosen.tolist()):
        if expert >= 0:
            ctypes.memmove(out[row].data_ptr(), int(table[expert]), row_bytes)


def alignment_of(addresses: list[int], row_bytes: int) -> int:
    """The widest load, of at most 16 bytes, that fits the addresses and the size of a row."""
    return math.gcd(16, row_bytes, *addresses)


def device_address(tensor: torch.Tensor, device: torch.device) -> int | None:
    """The address by which kernels on the device reach a tensor, None where they cannot.

    Host memory that is page-locked by `cudaHostRegister` need not have the same address on every
    device; the driver knows (CUDA driver API, `cuPointerGetAttribute`).
    """
    if device.type == "cpu" or tensor.device.type == "cuda":
        return tensor.data_ptr()
    if not tensor.is_pinned():
        return None
    driver = _cuda_driver()
    if driver is None:
        return tensor.data_ptr()
    address = ctypes.c_uint64()
    with torch.cuda.device(device):
        failed = driver.cuPointerGetAttribute(
            ctypes.byref(address), _DEVICE_POINTER, ctypes.c_uint64(tensor.data_ptr())
        )
    return None if failed else int(address.value)


_DEVICE_POINTER = 3  # CU_POINTER_ATTRIBUTE_DEVICE_POINTER


def _cuda_driver() -> ctypes.CDLL | None:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _most_pairs() -> int:
    from ollm_widgets.weights.experts import kernels as expert_kernels

    return expert_kernels.MOST_PAIRS
