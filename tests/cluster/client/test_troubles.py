"""Errors of Ray come to a person in this package's own."""

from __future__ import annotations

import asyncio

import pytest

from ollm_widgets.cluster.client.troubles import asks_for_token, first_line, understood, unreachable
from ollm_widgets.cluster.failures import HostGoneError, NotHeldError
from ollm_widgets.errors import (
    Cancelled,
    ClusterBusyError,
    ClusterUnavailableError,
    PlanNotExecutableError,
)

pytest.importorskip("ray")

from ray import exceptions
from ray.serve.exceptions import RayServeException, RequestCancelledError


def raised_there(cause: Exception) -> exceptions.RayTaskError:
    error = exceptions.RayTaskError("route", "Traceback of the other process", cause)
    return error.as_instanceof_cause()


@pytest.mark.parametrize(
    "cause",
    [
        ClusterBusyError("All are busy.", retry_after_s=2.5),
        NotHeldError("It has left."),
        PlanNotExecutableError("On node a: It is too large."),
        ValueError("something else"),
        ConnectionError("of a socket there"),
    ],
)
def test_what_another_process_raised_is_raised_here_as_it_was(cause: Exception) -> None:
    assert understood(raised_there(cause)) is cause


@pytest.mark.parametrize(
    "error",
    [
        exceptions.RayActorError(),
        exceptions.NodeDiedError("gone"),
        exceptions.WorkerCrashedError(),
    ],
)
def test_a_process_that_died_is_a_host_that_has_gone(error: Exception) -> None:
    assert isinstance(understood(error), HostGoneError)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.RaySystemError("no raylet"),
        exceptions.GetTimeoutError("late"),
        RayServeException("There is no Serve instance running."),
        ConnectionRefusedError("refused"),
        TimeoutError("late"),
        Exception("Can't find actor 1f. It might be dead or it's from a different cluster"),
    ],
)
def test_a_cut_connection_is_a_cluster_that_cannot_be_reached(error: Exception) -> None:
    found = understood(error)
    assert isinstance(found, ClusterUnavailableError)
    assert str(error) in str(found) or "late" in str(found)


@pytest.mark.parametrize("error", [RequestCancelledError("r1"), asyncio.CancelledError()])
def test_a_call_that_was_ended_is_cancelled(error: BaseException) -> None:
    assert isinstance(understood(error), Cancelled)


def test_own_errors_and_those_of_others_stay_what_they_are() -> None:
    for error in (HostGoneError("gone"), KeyError("else")):
        assert understood(error) is error


def test_a_missing_token_is_found_however_deep_it_is() -> None:
    outer = ConnectionError("Failed to connect to Ray cluster")
    outer.__cause__ = RuntimeError("ray.exceptions.AuthenticationError: InvalidAuthToken")
    assert asks_for_token(outer)
    assert not asks_for_token(ConnectionError("refused"))


def test_what_is_said_is_one_line() -> None:
    assert first_line(ValueError("one.\ntwo")) == "one."
    assert first_line(ValueError()) == "ValueError."
    assert str(unreachable("it is off.")).startswith("The cluster cannot be reached: it is off. ")
