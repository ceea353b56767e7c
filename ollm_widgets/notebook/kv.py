"""``%ollm kv``: what prompts have left on disk for later kernels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError, DeletionError
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.kv_choice import kv_folder, kv_limit_bytes
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_bytes

if TYPE_CHECKING:
    from ollm_widgets.kv.persistent.inventory import StoredModel, StoredPrefix


@dataclass(frozen=True, slots=True)
class KVListing(Tabular):
    """The stores below a folder.

    Parameters
    ----------
    stores
        The last used first.
    folder
        Where they are.
    limit_bytes
        What they may take together.
    """

    stores: tuple[StoredModel, ...]
    folder: Path
    limit_bytes: int

    def table(self) -> Table:
        """One row a store, and what they take together."""
        total = sum(store.bytes for store in self.stores)
        return Table(
            title="KV pages on disk",
            subtitle=(
                f"{format_bytes(total)} of at most {format_bytes(self.limit_bytes)} "
                f"in {self.folder}"
            ),
            columns=(
                Column("Model", numbers=False),
                Column("Id", numbers=False),
                Column("Tokens"),
                Column("Conversations"),
                Column("Size"),
                Column("Last used"),
            ),
            rows=tuple(map(_store_row, self.stores)),
            notes=()
            if self.stores
            else ("Nothing yet: kv_cache_lifecycle='persistent' leaves what was read here.",),
        )


@dataclass(frozen=True, slots=True)
class KVStoreInfo(Tabular):
    """One store with its conversations, the last used first."""

    store: StoredModel
    prefixes: tuple[StoredPrefix, ...]

    def table(self) -> Table:
        """One row a conversation."""
        store = self.store
        facts = _facts(store)
        shared = (
            "A prompt that begins as one of these starts behind what they share. Size is what "
            "removing that one alone would free."
        )
        return Table(
            title=f"KV pages of {store.model or store.name}",
            subtitle=", ".join((*facts, format_bytes(store.bytes))),
            columns=(
                Column("Conversation", numbers=False),
                Column("Tokens"),
                Column("Not shared"),
                Column("Size"),
                Column("Last used"),
            ),
            rows=tuple(
                TableRow(
                    (
                        str(number),
                        f"{prefix.tokens:,}",
                        f"{prefix.own_tokens:,}",
                        format_bytes(prefix.bytes),
                        _when(prefix.last_used),
                    )
                )
                for number, prefix in enumerate(self.prefixes, start=1)
            ),
            notes=(f"It cannot be used: {store.problem}." if store.problem else shared,),
        )


def folder_of(config: RuntimeConfig | None, cache_dir: str | None = None) -> Path:
    """Where the pages of a config are; `cache_dir` stands in for the config's."""
    chosen = config or RuntimeConfig("")
    return kv_folder(chosen if cache_dir is None else chosen.copy(cache_dir=cache_dir))


def list_kv(folder: Path) -> KVListing:
    """What is kept below `folder`."""
    from ollm_widgets.kv.persistent.inventory import list_stores

    return KVListing(tuple(list_stores(folder)), folder, kv_limit_bytes(folder))


def kv_info(folder: Path, what: str) -> KVStoreInfo:
    """What is kept of a model, or under an id.

    Raises
    ------
    KVStrategyError
        If there is nothing, or more than one store.
    """
    from ollm_widgets.kv.persistent.inventory import store_info

    store, prefixes = store_info(folder, what)
    return KVStoreInfo(store, tuple(prefixes))


def remove_kv(folder: Path, what: str | None, *, everything: bool = False) -> str:
    """Delete what is kept of a model, under an id, or of all that nobody uses.

    Returns
    -------
    str
        What was deleted, and how many bytes that has freed.

    Raises
    ------
    ConfigError
        If neither or both were named.
    KVStrategyError, DeletionError
        If there is no such store, or a process uses it.
    """
    from ollm_widgets.kv.persistent.inventory import list_stores, remove

    if everything == bool(what):
        raise ConfigError(
            "%ollm kv rm",
            "deletes one, or with --all all of them.",
            hint="Name a model or an id; %ollm kv lists them.",
        )
    if what:
        return _freed(remove(folder, what))
    removed: list[StoredModel] = []
    kept: list[str] = []
    for store in list_stores(folder):
        try:
            removed += remove(folder, store.name)
        except DeletionError as error:
            kept.append(str(error))
    return "\n".join((_freed(removed), *kept))


def kv_names(folder: Path) -> list[str]:
    """Models and ids that can be named."""
    from ollm_widgets.kv.persistent.inventory import list_stores

    stores = list_stores(folder)
    models = (store.model for store in stores if store.model)
    return [*dict.fromkeys(models), *(store.name for store in stores)]


def _freed(removed: list[StoredModel]) -> str:
    if not removed:
        return "Nothing was deleted."
    names = ", ".join(
        f"{store.model} ({store.name})" if store.model else store.name for store in removed
    )
    return f"Deleted {names}, {format_bytes(sum(store.bytes for store in removed))} freed."


def _store_row(store: StoredModel) -> TableRow:
    remarks = _facts(store)
    if store.in_use:
        remarks.append("in use by a process that runs")
    if store.problem:
        remarks.append(f"cannot be used: {store.problem}")
    return TableRow(
        (
            store.model or "unknown",
            store.name,
            f"{store.tokens:,}",
            f"{store.conversations:,}",
            format_bytes(store.bytes),
            _when(store.last_used),
        ),
        ", ".join(remarks),
        "warn" if store.problem else "neutral",
    )


def _facts(store: StoredModel) -> list[str]:
    """What the pages depend on beside the model."""
    facts = [f"{store.dtype} on {store.device}"] if store.dtype else []
    if store.codec not in ("", "full"):
        facts.append(f"cold pages in {store.codec}")
    if store.adapted:
        facts.append("with an adapter")
    return facts


def _when(seconds: float) -> str:
    """A moment in the clock of whoever looks."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else "never"
