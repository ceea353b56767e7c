"""The errors that decisions of the registry come to, where a request goes nowhere."""

from __future__ import annotations

from ollm_widgets.cluster.books.decisions import Busy, Decision, Go, OffersWanted
from ollm_widgets.cluster.failures import NoHostsError
from ollm_widgets.errors import ClusterBusyError, OllmError, PlanNotExecutableError


def refusal(decision: Decision) -> OllmError:
    """Build the error: nobody is there, all are busy, or none can ever run it."""
    if isinstance(decision, Busy):
        if decision.no_hosts:
            return NoHostsError(decision.message, hint=decision.hint)
        return ClusterBusyError(
            decision.message, retry_after_s=decision.retry_after_s, hint=decision.hint
        )
    assert not isinstance(decision, Go | OffersWanted)
    return PlanNotExecutableError(decision.message)
