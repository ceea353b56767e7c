"""What went wrong between here and the hub, in words of ours and without secrets."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

FaultKind: TypeAlias = Literal[
    "gated",
    "missing",
    "no-revision",
    "no-file",
    "refused",
    "offline",
    "unreachable",
    "busy",
    "broken",
    "corrupt",
    "disk",
    "unexpected",
]

_TRANSIENT: tuple[FaultKind, ...] = ("unreachable", "busy", "broken", "corrupt")
_FATAL: tuple[FaultKind, ...] = ("gated", "missing", "no-revision", "refused", "offline", "disk")
_CONNECT = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")
_SECRETS = (
    (re.compile(r"\bhf_\w+"), "hf_***"),
    (re.compile(r"(?i)\b(bearer)\s+\S+"), r"\1 ***"),
    # A signed address lets whoever has it read the file.
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+"), r"\1?***"),
)
_LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True)
class HubFault:
    """One failed request.

    Parameters
    ----------
    kind
        What it means.
    text
        What happened, for a person.
    status
        Status of the hub's reply, if there was one.
    retry_after_s
        How long the hub asked to wait.
    """

    kind: FaultKind
    text: str
    status: int | None = None
    retry_after_s: float | None = None

    def is_transient(self) -> bool:
        """Whether the same request may work a moment later."""
        return self.kind in _TRANSIENT

    def is_fatal(self) -> bool:
        """Whether no other file of the repository would fare better."""
        return self.kind in _FATAL


def request_errors() -> tuple[type[Exception], ...]:
    """What a request made through ``huggingface_hub`` raises when it fails."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is the HTTP library's own base of errors; the library's name has changed
    # between releases of huggingface_hub (httpx, httpx2).
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    return (http_error, OSError, ValueError)


def explain(error: BaseException, secret: str | None = None) -> HubFault:  # noqa: PLR0911  (a case each)
    """Say what an exception of a request means.

    Parameters
    ----------
    error
        The exception.
    secret
        The token that was sent, so that it is not repeated.
    """
    from huggingface_hub import errors

    name = type(error).__name__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubFault("offline", "HF_HUB_OFFLINE is set")
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_reply(error, secret)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return HubFault("disk", "the disk is full")
        return HubFault("unexpected", scrub(f"{name}: {error}", secret))
    if name in _CONNECT:
        return HubFault("unreachable", "no connection")
    if name.endswith("Timeout"):
        return HubFault("broken", "nothing came for too long")
    if name.endswith(("Error", "Redirects")) and type(error).__module__.startswith("httpx"):
        return HubFault("broken", "the connection broke")
    return HubFault("unexpected", scrub(f"{name}: {error}", secret))


def scrub(text: str, secret: str | None = None) -> str:
    """First line of a text, shortened, without tokens and signatures."""
    if secret:
        text = text.replace(secret, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 3] + "..."


def host_of(endpoint: str) -> str:
    """Host, and port where one is named, of the hub's address."""
    parts = urlsplit(endpoint)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.hostname or scrub(endpoint)}{port}"


def _explain_reply(error: Exception, secret: str | None) -> HubFault:  # noqa: PLR0911
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status: int | None = getattr(response, "status_code", None)
    headers: Mapping[str, str] = getattr(response, "headers", {})
    text = f"the hub answered {status}"
    if isinstance(error, errors.GatedRepoError):
        return HubFault("gated", text, status)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubFault("no-revision", text, status)
    if isinstance(error, errors.EntryNotFoundError):
        return HubFault("no-file", text, status)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return HubFault("missing", text, status)
    if status in (403, 451) or isinstance(error, errors.DisabledRepoError):
        return HubFault("refused", text, status)
    if status in (408, 416, 429) or (status or 0) >= 500:
        return HubFault("busy", text, status, _retry_after_s(headers))
    return HubFault("unexpected", scrub(f"{text}: {error}", secret), status)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isdecimal() else None
