"""Region `Loading`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ollm_widgets.protocol.pieces import Problem
from ollm_widgets.protocol.snapshot import FileView, LoadingView, StageView
from ollm_widgets.render.units import format_bytes, format_seconds
from ollm_widgets.session.holding import waiting_text

if TYPE_CHECKING:
    from ollm_widgets.errors import OllmError
    from ollm_widgets.session.loading import Loading, Stage
    from ollm_widgets.session.session import Session


def view_loading(session: Session) -> LoadingView:
    """How far the load is, or how it ended."""
    with session.lock:
        loading = session.loading
        return LoadingView(
            state=loading.state,
            model=loading.model,
            stages=tuple(_stage(loading, stage) for stage in loading.stages),
            problem=problem_of(loading.error) if loading.error else None,
            can_load=session.can_load,
            summary=_summary(session),
        )


def problem_of(error: OllmError) -> Problem:
    """An error as a person reads it."""
    return Problem(code=error.code, message=error.message, hint=error.hint)


def _stage(loading: Loading, stage: Stage) -> StageView:
    state: Literal["running", "done", "failed"] = "running"
    if stage.finished:
        state = "done"
    elif not loading.active:
        state = "failed"
    text = _text(stage, running=state == "running")
    if stage.files and text:
        ended = sum(file.finished for file in stage.files)
        text = f"{text}, {ended} of {len(stage.files)} files"
    return StageView(
        name=stage.name,
        state=state,
        done_bytes=stage.done_bytes,
        total_bytes=stage.total_bytes,
        text=text,
        files=tuple(_file(file) for file in stage.files if _moves(file)) if loading.active else (),
    )


def _moves(file: Stage) -> bool:
    return file.done_bytes > 0 and not file.finished


def _file(file: Stage) -> FileView:
    return FileView(
        name=file.name,
        done_bytes=file.done_bytes,
        total_bytes=file.total_bytes,
        text=_text(file, running=True),
    )


def _text(stage: Stage, *, running: bool) -> str:
    """Bytes, rate and time left; empty where no bytes are known."""
    if stage.total_bytes <= 1:
        return ""
    text = f"{format_bytes(stage.done_bytes)} of {format_bytes(stage.total_bytes)}"
    if stage.bytes_per_s:
        text += f", {format_bytes(stage.bytes_per_s)}/s"
    if running and stage.seconds_left is not None:
        text += f", {format_seconds(stage.seconds_left)} left"
    return text


def _summary(session: Session) -> str:
    loading = session.loading
    if loading.state == "loading":
        return _waiting(session)
    if loading.state == "loaded":
        return _loaded(loading)
    if loading.state == "cancelled":
        return f"Loading {loading.model} was cancelled."
    runtime = session.runtime
    if loading.state == "idle" and runtime is not None and runtime.plan is session.plan:
        return f"{runtime.name} is in memory already."
    if loading.state == "idle" and session.config is None:
        return "Pick a model to load it."
    return ""


def _loaded(loading: Loading) -> str:
    if not loading.stages:
        return f"{loading.model} was in memory already."
    waited_s = loading.waited_s
    after = f", after {format_seconds(waited_s)} of waiting" if waited_s else ""
    return f"{loading.model} was loaded in {format_seconds(loading.seconds - waited_s)}{after}."


def _waiting(session: Session) -> str:
    """For whom the load waits; empty while it runs."""
    manager = session.manager
    for one in manager.waiting():
        if one.name == session.loading.model:
            text = waiting_text(one, manager.residents())
            return f"{text[0].upper()}{text[1:]}."
    return ""
