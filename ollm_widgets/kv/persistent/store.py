"""Prefixes of conversations on disk, for one model in one setting.

`match` finds the longest one that a prompt begins with, `restore` puts it into an empty cache,
`save` keeps what a cache holds. Nothing here stops a generation: what cannot be read is not found,
and what cannot be written is said in the result.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
import torch

from ollm_widgets.errors import KVPageError, KVStrategyError
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.kv.contents import held_tokens, readable_layers
from ollm_widgets.kv.persistent.archive import BlockArchive
from ollm_widgets.kv.persistent.chain import pack_ids, root_hash
from ollm_widgets.kv.persistent.fingerprint import Fingerprint
from ollm_widgets.kv.persistent.folders import StorePlace
from ollm_widgets.kv.persistent.index import DamagedIndex, is_damage
from ollm_widgets.kv.persistent.kinds import CacheKind, kind_of
from ollm_widgets.kv.persistent.matching import Resumption, StoredKind, find_resumption
from ollm_widgets.kv.persistent.reading import DamagedRecord
from ollm_widgets.kv.persistent.restoring import DeviceOf, PrefixReader, require_empty
from ollm_widgets.kv.persistent.saving import PrefixWriter, SaveResult, tokens_in
from ollm_widgets.models.job_control import CancelFlag, Progress

if TYPE_CHECKING:
    from transformers import Cache

    from ollm_widgets.planning.kv_presets import KVLayout

T = TypeVar("T")
# What is there, and what keeps it there.
_Found: TypeAlias = tuple[Resumption | None, int | None]

__all__ = ["PrefixMatch", "PrefixStore", "SaveResult"]

# How tokens lie in memory says nothing of files; these are the ones for everyday use.
_LAYOUT_OF: dict[KVLayout, KVLayout] = {"contiguous": "segments", "ring": "segments"}


class PrefixMatch:
    """What a store has of a prompt, kept from being collected until it is released.

    Use it as a context, or call `release`.

    Parameters
    ----------
    store
        Whose it is.
    ids
        Packed token ids of the prompt.
    found
        What is there; None = nothing.
    pin
        What keeps it there.
    """

    def __init__(
        self, store: PrefixStore, ids: bytes, found: Resumption | None, pin: int | None
    ) -> None:
        self._store = store
        self._ids = ids
        self._found = found
        self._pin = pin

    @property
    def tokens(self) -> int:
        """How many tokens of the prompt can be restored."""
        return 0 if self._found is None else self._found.tokens

    @property
    def bytes(self) -> int:
        """What has to be read for that."""
        return 0 if self._found is None else self._found.bytes

    def release(self) -> None:
        """Let it be collected again; calling it again does nothing."""
        pin, self._pin = self._pin, None
        if pin is not None:
            self._store._unpin(pin)

    def __enter__(self) -> PrefixMatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class PrefixStore:
    """The prefixes of one model on disk; several processes may have it open at once.

    Made by `open`. A cache is read and filled by one thread at a time.

    Parameters
    ----------
    place
        Where it is.
    archive, note
        What `StorePlace.open` gave.
    """

    def __init__(self, place: StorePlace, archive: BlockArchive, note: str) -> None:
        self._place = place
        self._codec = codec_named(place.fingerprint.codec)
        self._archive: BlockArchive | None = archive
        self._notes = [note] if note else []
        self._replacing = threading.Lock()

    @staticmethod
    def open(
        root: Path,
        fingerprint: Fingerprint,
        *,
        layout: KVLayout,
        codec: str,
        limit_bytes: int | None = None,
    ) -> PrefixStore:
        """Open the store of a model, and begin one if there is none.

        What is in its place and cannot be used (damaged, of another version) is renamed, which
        `notes` tells.

        Parameters
        ----------
        root
            Folder of all stores.
        fingerprint
            The model's.
        layout
            Of the record files written from now on; what is there is read in any layout.
        codec
            The fingerprint's: ``full``, ``int8`` or ``int4``.
        limit_bytes
            Most bytes of the record files of all stores in `root`. What makes room is first of
            all other models, the one not used for longest, then what was not used for longest.

        Raises
        ------
        KVStrategyError
            When nothing can be kept in `root`.
        """
        if codec != fingerprint.codec:
            raise ValueError(f"The fingerprint is for pages in {fingerprint.codec}, not {codec}.")
        place = StorePlace(root, fingerprint, _LAYOUT_OF.get(layout, layout), limit_bytes)
        try:
            archive, note = place.open()
        except (OSError, sqlite3.Error) as error:
            raise KVStrategyError(
                f"No KV pages can be kept in {root}: {error}.",
                hint="Choose another folder (cache_dir), or the lifecycle runtime-scoped.",
            ) from error
        return PrefixStore(place, archive, note)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know: stores that were set aside, and why."""
        return tuple(self._notes)

    def match(self, ids: Sequence[int]) -> PrefixMatch:
        """Find the longest prefix of a prompt that can be restored.

        Parameters
        ----------
        ids
            Token ids; leave out the last of a prompt, as its logits are needed.

        Raises
        ------
        ValueError
            When one is no token id.
        """
        packed = pack_ids(ids)
        nothing: _Found = (None, None)
        found, pin = self._guarded(lambda archive: self._find(archive, packed, None), nothing)
        return PrefixMatch(self, packed, found, pin)

    def restore(
        self,
        match: PrefixMatch,
        cache: Cache,
        progress: Progress | None = None,
        cancel: CancelFlag | None = None,
        *,
        device: torch.device | str | DeviceOf | None = None,
    ) -> int:
        """Put what was found into a cache.

        A record that turns out damaged is forgotten, and a shorter prefix restored. So it is
        where the cache is of a kind that what was found does not fit.

        Parameters
        ----------
        match
            From `match`; its tokens become those that were restored.
        cache
            An empty one.
        progress
            Called with bytes read.
        cancel
            Looked at between reads.
        device
            Where the layers compute, for all or by the layer's number; None is the one device of
            the fingerprint's kind, or the current one of several.

        Returns
        -------
        int
            Tokens that the cache holds now, from the first on; 0 where it is as it was.

        Raises
        ------
        Cancelled
            When `cancel` was set; the cache is empty again.
        ValueError
            When the cache holds tokens already.
        """
        require_empty(cache)
        device_of = self._device_of(device)

        def fill(archive: BlockArchive) -> int:
            return self._fill(archive, match, cache, device_of, progress=progress, cancel=cancel)

        tokens = 0
        try:
            tokens = self._guarded(fill, 0)
        finally:
            if not tokens:
                _empty(cache)
                match._found = None
        return tokens

    def save(
        self,
        ids: Sequence[int],
        cache: Cache,
        cancel: CancelFlag | None = None,
        *,
        progress: Progress | None = None,
    ) -> SaveResult:
        """Keep what a cache holds; what is in the store already is not written again.

        What is complete when a save ends early stays. It never raises for what the disk or
        another process does.

        Parameters
        ----------
        ids
            The tokens of the cache, all of them.
        cache
            Of one sequence; it must not change meanwhile.
        cancel
            Looked at between writes.
        progress
            Called with bytes written.

        Raises
        ------
        ValueError
            When the cache does not hold as many tokens as there are ids.
        """
        packed = pack_ids(ids)
        if not ids:
            return SaveResult(0)
        try:
            kind = kind_of(cache)
        except KVStrategyError as error:
            return SaveResult(0, reason=str(error))
        if not kind.groups and not kind.has_states:
            return SaveResult(0, reason="The cache holds nothing that a model has left in it.")
        held = tokens_in(cache, kind)
        if held is not None and held != len(ids):
            raise ValueError(f"The cache holds {held} tokens, and {len(ids)} ids were given.")

        def write(archive: BlockArchive) -> SaveResult:
            root = self._root_of(kind)
            writer = PrefixWriter(archive, kind, root, self._codec, cache)
            with torch.no_grad():
                return writer.save(packed, progress, cancel)

        return self._guarded(write, SaveResult(0, reason="The store cannot be used now."))

    def close(self) -> None:
        """Close the files; calling it again does nothing."""
        with self._replacing:
            archive, self._archive = self._archive, None
        if archive is not None:
            archive.close()

    def __enter__(self) -> PrefixStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _root_of(self, kind: CacheKind) -> bytes:
        return root_hash(self._place.fingerprint.digest, kind.text)

    def _find(self, archive: BlockArchive, ids: bytes, cache: Cache | None) -> _Found:
        """Find the longest prefix, of kinds that fit a cache if one is given, and pin it."""
        best: Resumption | None = None
        for number, text in archive.kinds():
            kind = _kind_from(text)
            if cache is not None and not kind.fits(cache):
                continue
            stored = StoredKind(number, kind, self._root_of(kind))
            found = find_resumption(archive, stored, ids)
            if found is not None and (best is None or found.tokens > best.tokens):
                best = found
        pin = None if best is None else archive.pin(best.path[-1].number)
        return (None, None) if pin is None else (best, pin)

    def _fill(
        self,
        archive: BlockArchive,
        match: PrefixMatch,
        cache: Cache,
        device_of: DeviceOf,
        *,
        progress: Progress | None,
        cancel: CancelFlag | None,
    ) -> int:
        """Restore what was found, or what is left of it."""
        while match._found is not None:
            found = match._found
            if found.kind.fits(cache):
                reader = PrefixReader(archive, self._codec, found, cache, device_of)
                try:
                    reader.restore(progress, cancel)
                except DamagedRecord as damage:
                    archive.forget(damage.block.number, damage.part)
                    _empty(cache)
                else:
                    return found.tokens
            match.release()
            match._found, match._pin = self._find(archive, match._ids, cache)
        return 0

    def _device_of(self, device: torch.device | str | DeviceOf | None) -> DeviceOf:
        if callable(device):
            return device
        if device is None and self._place.fingerprint.device == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        chosen = torch.device(self._place.fingerprint.device if device is None else device)
        return lambda _: chosen

    def _unpin(self, pin: int) -> None:
        def unpin(archive: BlockArchive) -> None:
            archive.unpin(pin)

        self._guarded(unpin, None)

    def _guarded(self, act: Callable[[BlockArchive], T], otherwise: T) -> T:
        """Do something with the archive; `otherwise` where it cannot be used."""
        archive = self._archive
        if archive is not None and self._place.is_gone(archive):
            self._replace(archive, "another is in its place")
            archive = self._archive
        if archive is None:
            return otherwise
        try:
            return act(archive)
        except DamagedIndex as error:
            self._replace(archive, str(error))
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self._replace(archive, f"it cannot be read: {error}")
        except (OSError, KVPageError, sqlite3.Error):
            # The folder is gone, the disk fails, another process holds the index: a miss.
            pass
        return otherwise

    def _replace(self, damaged: BlockArchive, reason: str) -> None:
        """Set a damaged store aside and go on with an empty one."""
        with self._replacing:
            if self._archive is not damaged:
                return
            self._archive = None
            damaged.close()
            with suppress(OSError, sqlite3.Error):
                self._archive, note = self._place.replace(damaged, reason)
                self._notes += [note] if note else []


def _kind_from(text: str) -> CacheKind:
    try:
        return msgspec.json.decode(text, type=CacheKind)
    except (msgspec.DecodeError, TypeError) as error:
        raise DamagedIndex(f"a kind of cache is {text!r}") from error


def _empty(cache: Cache) -> None:
    """Take back what a restore that did not end has put in."""
    if any(held_tokens(cache, layer) for layer in readable_layers(cache)):
        cache.reset()  # type: ignore[no-untyped-call]
