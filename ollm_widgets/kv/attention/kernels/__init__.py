"""Triton kernels of decode attention over a ring of hot tokens and a table of cold pages.

One query of each sequence reads keys and values in splits that run side by side (flash-decoding);
a second kernel merges them. How many tokens there are is read from the device, so that a captured
graph serves a sequence as it grows. Cold pages are read by their addresses, wherever they are,
and quantized ones are decoded on the way.

Importing this package needs Triton. A launch allocates nothing and waits for nothing; what differs
between the launches of a step does not compile anew.
"""

from __future__ import annotations

from ollm_widgets.kv.attention.kernels.cold import cold_splits
from ollm_widgets.kv.attention.kernels.hot import hot_splits
from ollm_widgets.kv.attention.kernels.merging import merge_splits
from ollm_widgets.kv.attention.kernels.quantized import quantized_splits
from ollm_widgets.kv.attention.kernels.writing import write_row

__all__ = ["cold_splits", "hot_splits", "merge_splits", "quantized_splits", "write_row"]
