"""What an error of Ray means to who asked."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError

from ollm_widgets.cluster.failures import HostGoneError
from ollm_widgets.errors import Cancelled, ClusterUnavailableError, OllmError

_INSTALL = "Run pip install 'ollm-widgets[cluster]'."


def not_installed() -> ClusterUnavailableError:
    """Build the error for who has no Ray."""
    return ClusterUnavailableError("Ray is not installed on this machine.", hint=_INSTALL)


def understood(error: BaseException) -> BaseException:
    """Return the error that another process raised, or what an error of Ray comes to.

    An `OllmError` comes as it was raised. A process that went away is a `HostGoneError`, a
    connection that is cut a `ClusterUnavailableError`, and a call that was ended `Cancelled`; what
    else another process raised is left as it is.
    """
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError | asyncio.CancelledError | CancelledError):
        return Cancelled("The request to the cluster was cancelled.")
    if isinstance(error, exceptions.RayTaskError):
        # An error of Ray there was about somebody else whom it asked in turn.
        return error.cause if isinstance(error.cause, Exception) else error
    return error if isinstance(error, OllmError) else _of_ray(error)


def _of_ray(error: BaseException) -> BaseException:
    """Say what an error of Ray itself, or of Serve, comes to."""
    from ray import exceptions
    from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

    if isinstance(error, _gone()):
        return HostGoneError(f"The process that was asked has gone: {first_line(error)}")
    if isinstance(error, DeploymentUnavailableError):
        return ClusterUnavailableError(
            f"The hosts of the cluster could not be started: {first_line(error)}",
            hint="Look at `ray status` and at the logs of Serve.",
        )
    cut = exceptions.RayError | RayServeException | ConnectionError | TimeoutError
    # Of a cluster that was replaced by another one Ray says so in no class of its own.
    if isinstance(error, cut) or type(error) is Exception:
        return unreachable(first_line(error))
    return error


def unreachable(why: str) -> ClusterUnavailableError:
    """Build the error for a cluster that does not answer."""
    return ClusterUnavailableError(
        f"The cluster cannot be reached: {why}",
        hint="Check that Ray runs there (`ray status`), and ask again.",
    )


def _gone() -> tuple[type[BaseException], ...]:
    """Errors that say that a process, or its node, is not there any more."""
    from ray import exceptions
    from ray.serve.exceptions import ReplicaUnavailableError

    return (
        exceptions.RayActorError,
        exceptions.NodeDiedError,
        exceptions.WorkerCrashedError,
        exceptions.ObjectLostError,
        ReplicaUnavailableError,
    )


def asks_for_token(error: BaseException) -> bool:
    """Whether a cluster has refused this process for want of Ray's token."""
    from ray.exceptions import AuthenticationError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AuthenticationError):
        # Ray keeps the reason in words, further down.
        if AuthenticationError.__name__ in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, as a sentence."""
    lines = str(error).strip().splitlines()
    said = lines[0].strip().rstrip(".") if lines else type(error).__name__
    return f"{said}."
