"""What contenders measure, where they run, and the lines of JSON that keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import machine
import shapes
from shapes import Shape

Wire = Literal["gpu-memory", "host-to-gpu", "page-cache", "disk", "processor-memory"]
Speeds = Mapping[Wire, float]  # bytes per second


@dataclass(frozen=True, slots=True)
class Figures:
    """What a contender has measured; None and empty where it has not.

    Parameters
    ----------
    token_s, first_token_s
        Seconds per token after the first, and until the first.
    load_s
        Seconds of each load, in order.
    seconds
        Other times by name.
    moved_bytes
        What a token must at least move over each wire: the contender's own floor.
    gpu_peak_bytes, gpu_planned_bytes, gpu_budget_bytes
        Most that was on the GPU, and what our plan said, under which budget.
    host_peak_bytes, host_growth_bytes, host_planned_bytes, host_budget_bytes
        Most that was resident in host memory, its growth since before the load, and what our
        plan said, under which budget.
    tokens
        How its tokens compare with the reference's.
    speeds
        Bytes per second by wire.
    note
        What else a reader should know.
    """

    token_s: float | None = None
    first_token_s: float | None = None
    load_s: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    moved_bytes: Mapping[Wire, float] = field(default_factory=dict)
    gpu_peak_bytes: int | None = None
    gpu_planned_bytes: int | None = None
    gpu_budget_bytes: int | None = None
    host_peak_bytes: int | None = None
    host_growth_bytes: int | None = None
    host_planned_bytes: int | None = None
    host_budget_bytes: int | None = None
    tokens: str = ""
    speeds: Speeds = field(default_factory=dict)
    note: str = ""

    def floor_s(self, speeds: Speeds) -> float | None:
        """Seconds that the slowest wire needs, all of them working at once."""
        known = [size / speeds[wire] for wire, size in self.moved_bytes.items() if wire in speeds]
        return max(known) if known and len(known) == len(self.moved_bytes) else None


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a contender runs.

    Parameters
    ----------
    folder
        Holds the checkpoints and what contenders write.
    quick, tiny
        Fewer tokens; toy shapes, which show that a script works and measure nothing.
    cpu_only
        Leave a GPU alone.
    """

    folder: Path
    quick: bool = False
    tiny: bool = False
    cpu_only: bool = False

    @property
    def device(self) -> str:
        """The torch device that computes."""
        return "cuda:0" if machine.has_gpu() and not self.cpu_only else "cpu"

    def shape(self, shape: Shape) -> Shape:
        """The shape itself, or its toy."""
        if not self.tiny:
            return shape
        if shape.fp8:
            return shapes.TINY_FP8
        return shapes.TINY_MOE if shape.experts else shapes.TINY

    def checkpoint(self, shape: Shape) -> Path:
        """Folder of its checkpoint."""
        return self.folder / self.shape(shape).name

    def tokens(self, count: int) -> int:
        """How many tokens to generate: fewer when quick."""
        return max(3, count // 4) if self.quick or self.tiny else count


@dataclass(frozen=True, slots=True)
class Result:
    """How a contender fared: figures, or why there are none."""

    name: str
    figures: Figures | None
    error: str = ""
    machine: str = ""
    at: str = ""
    wall_s: float = 0.0


Results = Mapping[str, Result]


def read_results(path: Path) -> dict[str, Result]:
    """Read results; of a contender that ran twice the last that worked counts."""
    results: dict[str, Result] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        result = as_result(line)
        if result.figures is not None or result.name not in results:
            results[result.name] = result
    return results


def as_result(line: str) -> Result:
    """Read a result from its line of JSON."""
    fields = json.loads(line)
    figures = fields.pop("figures")
    return Result(figures=None if figures is None else Figures(**figures), **fields)


def speeds_of(results: Results) -> Speeds:
    """The wires as they were measured beside the results; empty if they were not."""
    wires = results.get("wires")
    return wires.figures.speeds if wires and wires.figures else {}


def figures_of(results: Results, name: str) -> Figures:
    """Figures of a contender; empty ones where it has none."""
    result = results.get(name)
    return result.figures if result and result.figures else Figures()
