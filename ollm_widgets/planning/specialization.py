"""Which specialization passes match a model, as far as planning must know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ollm_widgets.models.resolved import ResolvedModel


class SpecializationPass(Protocol):
    """One thing the optimized backend can do to a model it matches by structure."""

    @property
    def pass_id(self) -> str:
        """Its id in plans."""
        ...

    def matches(self, resolved: ResolvedModel) -> bool:
        """Say whether it applies, from shape and files alone."""
        ...


@runtime_checkable
class ExplainingPass(Protocol):
    """A pass that can say why it does not match."""

    def refusal(self, resolved: ResolvedModel) -> str:
        """Say why, without a full stop; empty if nothing stands against it."""
        ...


@dataclass(frozen=True, slots=True)
class SpecializationMatch:
    """A provider and those of its passes that match a model."""

    provider_id: str
    pass_ids: tuple[str, ...]


class SpecializationRegistry:
    """Providers of passes, in the order in which they are asked; empty until one is added."""

    def __init__(self) -> None:
        self._providers: dict[str, tuple[SpecializationPass, ...]] = {}

    def register(self, provider_id: str, passes: Iterable[SpecializationPass]) -> None:
        """Add a provider; one of the same id is replaced."""
        self._providers[provider_id] = tuple(passes)

    def find(self, resolved: ResolvedModel) -> SpecializationMatch | None:
        """Return the first provider with a pass that matches."""
        for provider_id, passes in self._providers.items():
            matching = tuple(each.pass_id for each in passes if each.matches(resolved))
            if matching:
                return SpecializationMatch(provider_id, matching)
        return None

    def refusal(self, resolved: ResolvedModel) -> str:
        """Say why no pass matches, in the words of the first that gives a reason."""
        passes = (each for group in self._providers.values() for each in group)
        reasons = (each.refusal(resolved) for each in passes if isinstance(each, ExplainingPass))
        return next(filter(None, reasons), "no pass of it matches this model")
