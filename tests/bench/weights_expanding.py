"""How fast quantized layers are expanded, against the memory they are read from and written to.

    python tests/bench/weights_expanding.py

Shapes of a layer of Llama-3.1-8B in 8 bits and of the experts of gpt-oss-20b in 4 bits. `result` is
what comes out of it each second, `moved` all that is read and written; on a GPU with and without
the kernels, whose bits are compared with the CPU's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from table import Table

from ollm_widgets.weights.quantized import expanding

_FP8 = tuple((rows, columns) for rows, columns in ((28672, 4096), (4096, 14336), (6144, 4096)))
_MXFP4 = ((32, 5760, 90), (32, 2880, 90))
_ROUNDS = 20


def _cases(device: torch.device, experts: int) -> list[tuple[str, list[tuple[torch.Tensor, ...]]]]:
    generator = torch.Generator().manual_seed(0)
    fp8, mxfp4 = [], []
    for rows, columns in _FP8:
        values = torch.randn(rows, columns, generator=generator).to(torch.float8_e4m3fn)
        scales = torch.rand(rows // 128, columns // 128, generator=generator)
        out = torch.empty(rows, columns, dtype=torch.bfloat16)
        fp8.append(tuple(each.to(device) for each in (values, scales, out)))
    for _, columns, groups in _MXFP4:
        shape = (experts, columns, groups)
        blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(110, 130, shape, generator=generator, dtype=torch.uint8)
        out = torch.empty(experts, 32 * groups, columns, dtype=torch.bfloat16)
        mxfp4.append(tuple(each.to(device) for each in (blocks, scales, out)))
    return [("fp8", fp8), ("mxfp4", mxfp4)]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(_ROUNDS if device.type == "cuda" else 3))


def main() -> None:
    """Time both kinds, and print them."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    experts = 32 if gpu else 2
    made = Table("", "seconds", "result GB/s", "moved GB/s", "bits as on the CPU")
    known = expanding._kernels()
    for kind, tensors in _cases(device, experts):
        expand = expanding.expand_fp8 if kind == "fp8" else expanding.expand_mxfp4
        on_cpu = [tuple(each.cpu() for each in case) for case in tensors]
        if gpu:
            for case in on_cpu:
                expand(*case)
        for title, kernels in (("kernels", known), ("torch", None)):
            if title == "kernels" and (not gpu or known is None):
                continue
            expanding._kernels = lambda kernels=kernels: kernels

            def work(
                expand: Callable[..., None] = expand,
                tensors: list[tuple[torch.Tensor, ...]] = tensors,
            ) -> None:
                for case in tensors:
                    expand(*case)

            took_s = _seconds(work, device)
            result = sum(out.nbytes for _, _, out in tensors)
            moved = sum(each.nbytes for case in tensors for each in case)
            same = all(
                torch.equal(case[2].cpu().view(torch.int16), own[2].view(torch.int16))
                for case, own in zip(tensors, on_cpu, strict=True)
            )
            made.add(
                f"{kind}, {title}",
                f"{took_s:.5f}",
                f"{result / took_s / 1e9:.1f}",
                f"{moved / took_s / 1e9:.1f}",
                ("yes" if same else "NO") if gpu else "",
            )
    print(torch.cuda.get_device_name() if gpu else "CPU")
    print(made)


if __name__ == "__main__":
    main()
