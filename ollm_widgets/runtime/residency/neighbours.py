"""Other kernels of this machine that keep runtimes: seen, and asked politely for memory."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePath

from ollm_widgets import settings
from ollm_widgets.runtime.residency import holder_files, presence
from ollm_widgets.runtime.residency.gauge import device_uuids
from ollm_widgets.runtime.residency.holder_files import (
    HolderRecord,
    PlaceRecord,
    PleaRecord,
    RuntimeRecord,
    in_words,
)
from ollm_widgets.runtime.residency.presence import Presence
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Holder, Plea

FOLDER_NAME = "devices"
PLEA_LIFE_S = 60.0
_RECORD = ".json"
_PLEA = ".plea"
_GIVES = ("idle", "demoted")
_MOST_FILES = 4096
# Of a machine that is not this one, or of this one before it was started again.
_FORGOTTEN_AFTER_S = 30 * 86400.0

_log = logging.getLogger(__name__)


class KernelNeighbours:
    """Kernels find each other through small files in a folder of this user.

    Each has a record of what it holds, and an operating system's lock for as long as it lives;
    who sees a record without its lock removes it. Where the folder cannot be written, or its
    disk knows no locks, there are no neighbours, and `note` says why.

    Parameters
    ----------
    folder
        Where the files are; None is ``devices`` in the cache folder.
    title
        What a person knows this kernel by; None is its notebook, else its script.
    uuids
        The uuid of each GPU by its place here.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path | None = None,
        title: str | None = None,
        *,
        uuids: Callable[[], Mapping[str, str]] = device_uuids,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.note = ""
        self._given_folder = folder
        self._title = title
        self._uuids = uuids
        self._clock = clock
        self._lock = threading.Lock()
        self._presence: Presence | None = None
        self._pid = os.getpid()
        self._asked: dict[tuple[str, str], Path] = {}
        self._gave_up = False

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._given_folder or settings.cache_dir() / FOLDER_NAME

    @property
    def title(self) -> str:
        """What the others know this kernel by."""
        return in_words(self._title or _own_title())

    # ------------------------------------------------------------------ what is held

    def publish(self, runtimes: Sequence[HeldRuntime]) -> None:
        """Show what this kernel keeps; an empty sequence withdraws it."""
        uuids = self._uuids()
        with self._mine():
            here = self._appear() if runtimes else self._presence
            if here is None:
                return
            path = self._path(here.key + _RECORD)
            records = tuple(_as_record(runtime, uuids) for runtime in runtimes)
            record = HolderRecord(self.title, self._clock(), records)
            if not runtimes or not self._write(path, record):
                holder_files.remove(path)

    def others(self) -> tuple[Holder, ...]:
        """Return who else keeps runtimes; those that died are forgotten."""
        return tuple(holder for _, holder in self._holders())

    # ------------------------------------------------------------------ asking

    def ask(self, place: str, needed_bytes: int, pid: int | None = None) -> tuple[Holder, ...]:
        """Ask others that hold memory there, or one of them, for some; returns whom.

        They need not give any.
        Those with idle runtimes come first, longest idle first, and no more are asked than would
        give enough; what they cannot give is asked of the rest, whose users then see it. A
        request stands for a minute, or until it is made anew.
        """
        uuid = self._uuids().get(place)
        found = [
            (key, holder)
            for key, holder in self._holders()
            if holder.held_bytes(place) and pid in (None, holder.pid)
        ]
        found.sort(key=lambda each: _longest_idle_s(each[1], place), reverse=True)
        asked: list[Holder] = []
        with self._mine():
            here = self._appear() if found else None
            for key, holder in found:
                if here is None or needed_bytes <= 0:
                    break
                self._withdraw(key, place)
                path = self._path(f"{key}.{here.key}.{secrets.token_hex(4)}{_PLEA}")
                wanted = PlaceRecord(place, needed_bytes, uuid)
                if self._write(path, PleaRecord(self.title, self._clock(), wanted)):
                    self._asked[key, place] = path
                    asked.append(holder)
                    needed_bytes -= _idle_bytes(holder, place)
        return tuple(asked)

    def pleas(self) -> tuple[Plea, ...]:
        """Return what others ask of this kernel and has not been answered; cheap to call."""
        with self._mine():
            here = self._presence
        if here is None:
            return ()
        found: list[tuple[float, Plea]] = []
        places = {uuid: place for place, uuid in self._uuids().items()}
        for name in self._files().get(here.key, ()):
            asker = name.partition(".")[2].partition(".")[0]
            if not name.endswith(_PLEA) or not presence.is_key(asker):
                continue
            record = holder_files.read_record(self._path(name), PleaRecord)
            if record is None or not self._stands(record, asker):
                holder_files.remove(self._path(name))
                continue
            plea = Plea(
                id=name,
                asker_pid=presence.pid_of(asker),
                asker_title=in_words(record.asker_title),
                place=_place_here(record.wanted, places),
                needed_bytes=record.wanted.size_bytes,
            )
            found.append((record.at, plea))
        return tuple(plea for _, plea in sorted(found, key=lambda each: (each[0], each[1].id)))

    def answer(self, plea: Plea, freed_bytes: int) -> None:
        """Say what was given back, which may be nothing.

        The request is gone then; what was given shows in the memory itself, and in what this
        kernel publishes next.
        """
        if holder_files.remove(self._path(plea.id)):
            _log.info("gave %d bytes on %s to %s", freed_bytes, plea.place, plea.asker_title)

    def close(self) -> None:
        """Withdraw everything of this kernel, for good."""
        with self._mine():
            self._gave_up = True
            for path in self._asked.values():
                holder_files.remove(path)
            self._asked.clear()
            here, self._presence = self._presence, None
            if here is not None:
                here.close()

    # ------------------------------------------------------------------ inside

    @contextlib.contextmanager
    def _mine(self) -> Iterator[None]:
        """One thread at a time; a forked child begins with nothing, since nothing is its own."""
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._presence = None
            self._asked = {}
        with self._lock:
            yield

    def _appear(self) -> Presence | None:
        """Return this kernel's lock, taking it the first time; None without neighbours."""
        if self._presence is not None and self._presence.path.exists():
            return self._presence
        if self._gave_up:
            return None
        if self._presence is not None:
            self._presence.close()  # somebody has emptied the folder
            self._presence = None
        try:
            holder_files.make_private(self.folder)
            self._presence = Presence(self.folder)
        except OSError as error:
            self._gave_up = True
            self._say(f"Other kernels cannot be seen: {error}.")
        else:
            self._forget_old()
        return self._presence

    def _write(self, path: Path, record: HolderRecord | PleaRecord) -> bool:
        try:
            holder_files.write_record(path, record)
        except OSError as error:
            self._say(f"Other kernels are not told what this one holds: {error}.")
            return False
        return True

    def _say(self, note: str) -> None:
        if not self.note:
            _log.info(note)
        self.note = note

    def _holders(self) -> Iterator[tuple[str, Holder]]:
        places = {uuid: place for place, uuid in self._uuids().items()}
        now = self._clock()
        for key, names in self._files().items():
            if not presence.is_here(key) or presence.is_own(key) or not self._is_alive(key, names):
                continue
            record = holder_files.read_record(self._path(key + _RECORD), HolderRecord)
            if record is not None and record.runtimes:
                yield key, _as_holder(presence.pid_of(key), record, now, places)

    def _is_alive(self, key: str, names: Sequence[str]) -> bool:
        def bury() -> None:
            for name in names:
                holder_files.remove(self._path(name))

        try:
            return presence.is_alive(self.folder, key, bury)
        except OSError:
            return False  # it cannot be told, so nothing is shown of it, and nothing removed

    def _stands(self, record: PleaRecord, asker: str) -> bool:
        """Whether a request is neither too old nor of somebody who has gone."""
        if abs(self._clock() - record.at) > PLEA_LIFE_S or not presence.is_here(asker):
            return False
        return self._is_alive(asker, ())

    def _withdraw(self, key: str, place: str) -> None:
        earlier = self._asked.pop((key, place), None)
        if earlier is not None:
            holder_files.remove(earlier)

    def _forget_old(self) -> None:
        """Remove what machines left that share the folder, or this one before its last start."""
        for key, names in self._files().items():
            for path in () if presence.is_here(key) else map(self._path, names):
                with contextlib.suppress(OSError):
                    if self._clock() - path.lstat().st_mtime > _FORGOTTEN_AFTER_S:
                        path.unlink()

    def _files(self) -> dict[str, list[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return presence.keys_in(entry.name for entry in islice(entries, _MOST_FILES))
        except OSError:
            return {}

    def _path(self, name: str) -> Path:
        return self.folder / name


def _as_record(runtime: HeldRuntime, uuids: Mapping[str, str]) -> RuntimeRecord:
    places = (
        PlaceRecord(place, held_bytes, uuids.get(place))
        for place, held_bytes in runtime.held_bytes.items()
        if held_bytes > 0
    )
    idle_s = max(runtime.idle_s, 0.0)
    return RuntimeRecord(in_words(runtime.name), runtime.state, idle_s, tuple(places))


def _as_holder(pid: int, record: HolderRecord, now: float, places: Mapping[str, str]) -> Holder:
    since_s = max(now - record.at, 0.0)
    runtimes = []
    for runtime in record.runtimes:
        held_bytes: dict[str, int] = {}
        for each in runtime.places:
            place = _place_here(each, places)
            held_bytes[place] = held_bytes.get(place, 0) + each.size_bytes
        idle_s = 0.0 if runtime.state == "busy" else runtime.idle_s + since_s
        runtimes.append(HeldRuntime(in_words(runtime.name), runtime.state, idle_s, held_bytes))
    return Holder(pid, in_words(record.title), tuple(runtimes))


def _place_here(told: PlaceRecord, places: Mapping[str, str]) -> str:
    """Return the name that this process has for a memory; of a GPU that it cannot see, its uuid.

    Before this process uses GPUs it knows none by uuid, and takes over the other's name.
    """
    if told.uuid is None or not places:
        return told.place
    return places.get(told.uuid, told.uuid)


def _can_give(holder: Holder, place: str) -> list[HeldRuntime]:
    return [
        runtime
        for runtime in holder.runtimes
        if runtime.state in _GIVES and runtime.held_bytes.get(place)
    ]


def _idle_bytes(holder: Holder, place: str) -> int:
    return sum(runtime.held_bytes[place] for runtime in _can_give(holder, place))


def _longest_idle_s(holder: Holder, place: str) -> float:
    """Seconds; less than any for a holder that can give nothing."""
    return max((runtime.idle_s for runtime in _can_give(holder, place)), default=-1.0)


def _own_title() -> str:
    # Jupyter's server tells the notebook in the environment, VS Code in a variable.
    main = sys.modules.get("__main__")
    notebook = os.environ.get("JPY_SESSION_NAME") or getattr(main, "__vsc_ipynb_file__", None)
    if isinstance(notebook, str) and notebook.strip():
        return PurePath(notebook.strip()).name
    if "ipykernel" in sys.modules:
        return "a notebook"
    script = PurePath(sys.argv[0] if sys.argv else "").name
    return script if script not in ("", "-c", "-m") else "Python"
