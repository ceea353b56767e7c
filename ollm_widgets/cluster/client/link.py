"""A client that is connected: calls to the registry, and to a host by its id."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ollm_widgets.cluster.client.troubles import understood


class Link:
    """What a client holds of a cluster. Its calls run on the loop of a `Post`.

    Errors come as `troubles.understood` says.

    Parameters
    ----------
    client
        What the registry knows this client by.
    registry, hosts
        Serve's handles of the two deployments, of which nobody else makes use.
    presence
        Dies with this process, so that the registry learns at once; held for that.
    """

    def __init__(self, client: str, registry: Any, hosts: Any, presence: Any) -> None:
        self.client = client
        self.presence = presence
        self._registry = registry
        self._hosts = hosts

    async def end(self) -> None:
        """End the sign of life, and stop following who is there; it is of no use from then on."""
        import ray

        # The cluster may be gone already, or be another one.
        with contextlib.suppress(Exception):
            ray.kill(self.presence)
        for handle in (self._registry, self._hosts):
            with contextlib.suppress(Exception):
                await handle.shutdown_async()

    async def registry(self, method: str, *args: Any) -> Any:
        """Call a method of the registry."""
        return await _answer(self._registry, method, args)

    async def host(self, method: str, host: str | None, *args: Any) -> Any:
        """Call a method of a host; None is any."""
        return await _answer(self._hosts, method, (host, *args))

    async def stream(self, method: str, host: str, *args: Any) -> AsyncIterator[Any]:
        """Read a generator of a host; it is closed there when this one is."""
        response = self._hosts.options(method_name=method, stream=True).remote(host, *args)
        ended = False
        try:
            async for item in response:
                yield item
            ended = True
        except Exception as error:
            raise understood(error) from None
        finally:
            if not ended:
                _cancel(response)


async def _answer(handle: Any, method: str, args: tuple[Any, ...]) -> Any:
    response = handle.options(method_name=method).remote(*args)
    ended = False
    try:
        answer = await response
        ended = True
    except Exception as error:
        raise understood(error) from None
    finally:
        if not ended:
            _cancel(response)
    return answer


def _cancel(response: Any) -> None:
    # Of a call that never reached anybody Serve raises once more why not.
    with contextlib.suppress(Exception):
        response.cancel()
