"""``%ollm doctor``: what this machine is, what was measured, and what to mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.notebook.printing import rewrite_line

if TYPE_CHECKING:
    from ollm_widgets.runtime.doctor.report import DoctorReport


def examine(*, measure: bool) -> DoctorReport:
    """Look at the machine; with `measure`, measure it first and show how far that is.

    An interrupt ends the measuring: the report then shows what was measured until then.
    """
    from ollm_widgets.runtime.doctor.report import doctor

    if not measure:
        return doctor()
    try:
        report = doctor(measure=True, progress=_show)
    except KeyboardInterrupt:
        rewrite_line("Measuring was interrupted.")
        print()
        return doctor()
    print()
    return report


def _show(stage: str, done: int, total: int) -> None:
    rewrite_line(f"{stage} ({done + 1} of {total})" if done < total else f"{stage}.")
