"""The doctor's report: what is here, what was measured, what is wrong and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ollm_widgets.models.job_control import CancelFlag, Progress
from ollm_widgets.planning.profile.machine import MachineProfile, remembered_profile
from ollm_widgets.render.card import Card, Row, Tone
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_bytes, format_memory
from ollm_widgets.runtime.doctor.facts import DeviceFacts, Facts, FolderFacts, Library
from ollm_widgets.runtime.doctor.gathering import gather
from ollm_widgets.runtime.doctor.problems import Problem, problems_of
from ollm_widgets.runtime.doctor.profiling import profile_machine
from ollm_widgets.settings import APPLICATION


@dataclass(frozen=True, slots=True)
class DoctorReport(Renderable):
    """What this machine is, and what speaks against running models on it.

    Parameters
    ----------
    facts
        Libraries, devices, memory, folders, variables.
    profile
        The speeds that were measured here.
    problems
        Each with its next step; notes come last.
    """

    facts: Facts
    profile: MachineProfile
    problems: tuple[Problem, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing but notes was found."""
        return all(problem.is_note for problem in self.problems)

    def card(self) -> Card:
        """Problems first, then what there is."""
        count = sum(not problem.is_note for problem in self.problems)
        return Card(
            title=f"{APPLICATION} on this machine",
            subtitle=f"Python {self.facts.python}, {self.facts.platform}",
            badge=f"{count} problem{'s' if count > 1 else ''}" if count else "all well",
            tone="warn" if count else "ok",
            rows=(
                *self._problem_rows(),
                *_device_rows(self.facts),
                *self._speed_rows(),
                *_place_rows(self.facts),
                *_library_rows(self.facts),
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return facts, speeds and problems as plain values, for a bug report."""
        return {
            "facts": _plain(asdict(self.facts)),
            "speeds": [
                dict(zip(("wire", "speed", "measured"), row.cells, strict=True))
                for row in self.profile.table().rows
            ],
            "problems": [asdict(problem) for problem in self.problems],
        }

    def _problem_rows(self) -> Iterator[Row]:
        for problem in self.problems:
            term, tone = ("Note", "neutral") if problem.is_note else ("Problem", "warn")
            yield Row(
                term, f"{problem.text} {problem.fix}", "warn" if tone == "warn" else "neutral"
            )

    def _speed_rows(self) -> Iterator[Row]:
        table = self.profile.table()
        for row in table.rows:
            wire, speed, measured = row.cells
            yield Row("Speed", f"{wire}: {speed} (measured {measured})")
        for note in table.notes:
            yield Row("Speed", note)


def doctor(
    *,
    measure: bool = False,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
) -> DoctorReport:
    """Look at libraries, devices, folders and measured speeds, and say what to mend.

    Imports torch; asks no network.

    Parameters
    ----------
    measure
        Measure every device and the disk now: a few seconds, best while nothing else runs.
    progress
        Called as ``progress(stage, done, total)`` while measuring.
    cancel
        Looked at while measuring, between stages.

    Raises
    ------
    Cancelled
        When `cancel` was set.
    """
    facts = gather()
    try:
        profile = (
            profile_machine(progress=progress, cancel=cancel) if measure else remembered_profile()
        )
    except ImportError:  # of a library that the report says is missing
        profile = MachineProfile()
    return DoctorReport(facts, profile, problems_of(facts))


def _library_rows(facts: Facts) -> Iterator[Row]:
    for library in facts.libraries:
        build = _torch_build(facts) if library.name == "torch" else ""
        tone: Tone = "warn" if library.fits is False else "neutral"
        yield Row(library.name, _library_text(library, build), tone)


def _library_text(library: Library, build: str) -> str:
    if library.extra and not library.installed:
        command = f"pip install '{APPLICATION}[{library.extra}]'"
        return f"not installed; {command} is for {library.purpose}"
    text = library.installed or "not installed"
    if build:
        text += f" ({build})"
    if not library.wanted:
        return text
    if library.fits is None:
        return f"{text}, for {library.wanted}"
    fit = "fits {}" if library.fits else "{} is needed"
    return f"{text}, {fit.format(library.wanted)}"


def _torch_build(facts: Facts) -> str:
    torch = facts.torch
    if torch.error:
        return "cannot be imported"
    if torch.cuda:
        return f"CUDA {torch.cuda}"
    return f"ROCm {torch.rocm}" if torch.rocm else "without CUDA"


def _device_rows(facts: Facts) -> Iterator[Row]:
    for each in facts.devices:
        yield Row(each.device.name, _device_text(each, facts))
    host = facts.host
    if host is None:
        return
    text = f"{host.usable_cores:g} of {host.cores} cores"
    if facts.torch.threads:
        text += f", torch uses {facts.torch.threads} threads"
    if host.limit_bytes is not None:
        text += (
            f"; the container may use {format_memory(host.limit_bytes)} of "
            f"{format_memory(host.ram_total_bytes)} memory"
        )
    if host.swap_total_bytes:
        text += (
            f"; {format_memory(host.swap_used_bytes)} of "
            f"{format_memory(host.swap_total_bytes)} swap in use"
        )
    yield Row("host", text)


def _device_text(each: DeviceFacts, facts: Facts) -> str:
    device = each.device
    parts = [
        device.title,
        f"{format_memory(device.free_bytes)} of {format_memory(device.total_bytes)} free",
    ]
    if each.capability is not None:
        parts.append(f"compute capability {each.capability[0]}.{each.capability[1]}")
    if device.kind == "cuda" and facts.nvidia_driver:
        parts.append(f"driver {facts.nvidia_driver}")
    parts.append("bfloat16" if device.native_bf16 else "no bfloat16 arithmetic")
    return ", ".join(parts)


def _place_rows(facts: Facts) -> Iterator[Row]:
    for folder in facts.folders:
        yield Row(folder.name, _folder_text(folder), "neutral" if folder.writable else "warn")
    missing = facts.missing_bundles
    yield Row(
        "widgets",
        f"page code missing for {', '.join(missing)}" if missing else "page code is installed",
        "warn" if missing else "neutral",
    )
    for variable in facts.variables:
        yield Row(variable.name, variable.value if variable.known else "set, and not read")


def _folder_text(folder: FolderFacts) -> str:
    parts = [str(folder.path)]
    if folder.size_bytes is not None:
        parts.append(f"holds {format_bytes(folder.size_bytes)}")
    if not folder.exists:
        parts.append("not made yet")
    if folder.free_bytes is not None:
        parts.append(f"{format_bytes(folder.free_bytes)} left on its disk")
    if not folder.writable:
        parts.append("cannot be written")
    return ", ".join(parts)


def _plain(value: Any) -> Any:
    """The same with paths as text and tuples as lists, as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
