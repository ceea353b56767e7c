"""Writing the token of a decode step where its position on the device says."""

from __future__ import annotations

import torch

from ollm_widgets.kv.attention.launching import needed_kernels, power_of_two


def write_token(
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: torch.Tensor,
) -> None:
    """Write one token of each sequence into slot ``position % ring``, by a kernel.

    Parameters
    ----------
    new_keys, new_values
        ``[batch, heads, 1, width]``, the last dimension contiguous.
    keys, values
        ``[batch, heads, ring, width]``, contiguous.
    position
        int64 ``[1]`` on the device.
    """
    batch, heads, ring, key_width = keys.shape
    needed_kernels().write_row[(batch * heads,)](
        new_keys,
        new_values,
        keys,
        values,
        position,
        new_keys.stride(0),
        new_keys.stride(1),
        new_values.stride(0),
        new_values.stride(1),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        ring,
        HEADS=heads,
        KEY=key_width,
        VALUE=values.shape[-1],
        KEY_LANES=power_of_two(key_width),
        VALUE_LANES=power_of_two(values.shape[-1]),
        num_warps=1,
    )
