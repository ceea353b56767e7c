"""What goes wrong between a client and hosts, and is dealt with before anybody hears of it."""

from __future__ import annotations

from typing import ClassVar

from ollm_widgets.errors import OllmError


class NotHeldError(OllmError):
    """The model has left the host meanwhile; the request is routed again."""

    code: ClassVar[str] = "not-held"


class HostGoneError(OllmError):
    """The host cannot be reached, or is no replica any more; the request may go elsewhere."""

    code: ClassVar[str] = "host-gone"


class NoHostsError(OllmError):
    """No host is there yet; Serve has to be woken to start one."""

    code: ClassVar[str] = "no-hosts"
