"""What a failed question to the hub means for the person who asked about a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ollm_widgets.errors import (
    GatedModelError,
    HubUnavailableError,
    OllmError,
    UnsupportedModelError,
)
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.models.hub_faults import HubFault, explain, host_of, request_errors
from ollm_widgets.models.hub_requests import request_headers, secret_of

_MALFORMED = HubFault("unexpected", "its reply is not what a hub sends")


@contextmanager
def hub_errors(
    endpoint: str, repo_id: str | None = None, revision: str | None = None
) -> Iterator[None]:
    """Turn what requests to the hub raise into errors of this package.

    Parameters
    ----------
    endpoint
        Address of the hub.
    repo_id, revision
        What is asked about; ``None`` for a search.

    Raises
    ------
    GatedModelError
        When the repository asks for its licence to be accepted.
    UnsupportedModelError
        When there is no such repository or revision.
    HubUnavailableError
        When the hub was not to be asked, cannot be reached, or answers nonsense.
    """
    if is_offline():
        raise error_of(HubFault("offline", "HF_HUB_OFFLINE is set"), endpoint, repo_id, revision)
    try:
        yield
    except OllmError:
        raise
    except (TypeError, KeyError, AttributeError) as error:
        raise error_of(_MALFORMED, endpoint, repo_id, revision) from error
    except request_errors() as error:
        fault = explain(error, secret_of(request_headers()))
        # The error itself may name the token or a signed address.
        raise error_of(fault, endpoint, repo_id, revision) from None


def error_of(
    fault: HubFault, endpoint: str, repo_id: str | None, revision: str | None
) -> OllmError:
    """Say what a fault means; see `hub_errors`."""
    host = host_of(endpoint)
    page = f"{endpoint}/{repo_id}"
    if repo_id is not None and fault.kind == "gated":
        return GatedModelError(
            f"{repo_id} asks for its licence to be accepted before its files can be read.",
            repo_id=repo_id,
            hint=f"Ask for access at {page} and log in with `hf auth login`.",
        )
    if repo_id is not None and fault.kind in ("missing", "no-file"):
        return UnsupportedModelError(
            f"{host} has no model {repo_id} that you may see.",
            hint="Check its spelling; if it is private, log in with `hf auth login`.",
        )
    if fault.kind == "no-revision":
        return UnsupportedModelError(
            f"{repo_id} has no revision {revision or 'main'!r} on {host}.",
            hint=f"Its branches and tags are at {page}/tree/main.",
        )
    asked = f"about {repo_id}" if repo_id else "for models"
    message, hint = _words(fault, host, asked)
    return HubUnavailableError(message, host=host, hint=hint)


def _words(fault: HubFault, host: str, asked: str) -> tuple[str, str]:
    local = "Models on this machine work without it."
    if fault.kind == "offline":
        return (
            f"{host} was not asked {asked}: {fault.text}.",
            f"Unset HF_HUB_OFFLINE and restart the kernel to ask it. {local}",
        )
    if fault.kind == "unreachable":
        return (
            f"{host} cannot be reached from here to ask {asked} ({fault.text}).",
            f"Check the connection and HF_ENDPOINT, then try again. {local}",
        )
    if fault.kind == "refused":
        return (
            f"{host} refuses to be asked {asked} ({fault.text}).",
            f"The login may lack the permission; see `hf auth login`. {local}",
        )
    return (f"{host} did not answer {asked}: {fault.text}.", f"Try again in a moment. {local}")
