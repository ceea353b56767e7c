"""What a search finds: one kind of item, whichever place it was found in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from ollm_widgets.models.capabilities import Modality
from ollm_widgets.models.catalog import GenericModelKind

Where: TypeAlias = Literal["managed folder", "hub cache", "folder", "catalog", "hub"]

# The hub's names for what we call kinds (https://huggingface.co/tasks).
TASKS: dict[GenericModelKind, str] = {
    "causal-lm": "text-generation",
    "image-text-to-text": "image-text-to-text",
    "seq2seq-lm": "text2text-generation",
    "audio-text-to-text": "audio-text-to-text",
    "speech-seq2seq": "automatic-speech-recognition",
}
_MODALITIES: dict[str, tuple[Modality, ...]] = {
    "text-generation": ("text",),
    "text2text-generation": ("text",),
    "image-text-to-text": ("text", "image"),
    "audio-text-to-text": ("text", "audio"),
    "automatic-speech-recognition": ("text", "audio"),
    "any-to-any": ("text", "image", "audio"),
}


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model, on this machine or on the hub.

    Parameters
    ----------
    reference
        What to give to `ModelResolver.resolve`.
    name
        Short name for people.
    where
        The place it would be loaded from.
    repo_id
        Its hub repository, where it has one.
    parameters, bytes_on_disk
        Where known; of files on this machine, the bytes that they really take.
    task
        The hub's name of what it does: ``text-generation``, ``image-text-to-text``, ...
    modalities
        Kinds of input; empty where not known.
    licence, gated
        Where known.
    downloaded
        Whether its files are on this machine.
    last_used
        When it was last loaded, as far as the disk notes reads, or else written.
    downloads, likes
        The hub's counts.
    problem
        Why it cannot run; empty when nothing is known to stand against it.
    """

    reference: str
    name: str
    where: Where
    repo_id: str | None = None
    parameters: int | None = None
    bytes_on_disk: int | None = None
    task: str | None = None
    modalities: tuple[Modality, ...] = ()
    licence: str | None = None
    gated: bool | None = None
    downloaded: bool = False
    last_used: datetime | None = None
    downloads: int | None = None
    likes: int | None = None
    problem: str = ""

    def matches(self, words: tuple[str, ...], task: str | None = None) -> bool:
        """Whether every word, in lower case, is in its names, and its task is `task`."""
        text = f"{self.name} {self.reference} {self.repo_id or ''}".casefold()
        return all(word in text for word in words) and task in (None, self.task)


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of a search.

    Parameters
    ----------
    items
        The models; those on this machine come first.
    page, page_size
        Which page this is, counted from 1, and how many items a page has.
    has_more
        Whether there is a next page.
    hub_problem
        Why the hub's models are not among the items; empty when they are.
    """

    items: tuple[FoundModel, ...]
    page: int = 1
    page_size: int = 20
    has_more: bool = False
    hub_problem: str = ""


def modalities_of_task(task: str | None) -> tuple[Modality, ...]:
    """Kinds of input that a task of the hub has; empty for one of another sort."""
    return _MODALITIES.get(task or "", ())
