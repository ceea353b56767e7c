"""Whether an actor of Ray still lives: Ray's own word, which no slowness stands for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

# Ray learns of a node that lost its power after a few seconds, and of a process at once.
_ASKS_S = 8.0
_AGAIN_S = 0.2


async def has_died(actor: Any) -> bool:
    """Ask Ray whether an actor has died; one that does not answer has not, as far as is known."""
    from ray.exceptions import ActorDiedError, RayActorError

    until = time.monotonic() + _ASKS_S
    while (left_s := until - time.monotonic()) > 0:
        try:
            await asyncio.wait_for(actor.__ray_ready__.remote(), left_s)
        except ActorDiedError:
            return True
        except TimeoutError:
            break
        except RayActorError:  # its node cannot be reached: Ray does not know yet
            await asyncio.sleep(_AGAIN_S)
        else:
            break
    return False


async def outlive(presence: Any) -> None:
    """Return once a client's sign of life has died; see `presence`."""
    from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError

    while True:
        try:
            await presence.stay.remote()
        except (ActorDiedError, ActorUnschedulableError):
            return
        except RayError:  # whatever has cut this off, Ray has not said that it died
            await asyncio.sleep(_AGAIN_S)
