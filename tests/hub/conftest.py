"""The fixtures of this folder, found by name."""

from tests.hub.fixtures import hub

__all__ = ["hub"]
