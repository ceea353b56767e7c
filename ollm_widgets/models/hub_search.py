"""The models that a search finds on the hub, fetched page by page as they are looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ollm_widgets.errors import HubUnavailableError
from ollm_widgets.models.crew import Crew
from ollm_widgets.models.found import FoundModel, modalities_of_task
from ollm_widgets.models.hub_faults import host_of
from ollm_widgets.models.hub_requests import request_headers
from ollm_widgets.models.job_control import CancelFlag
from ollm_widgets.models.remote import licence_of
from ollm_widgets.models.tensors import dtype_bits

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

HubSort: TypeAlias = Literal["downloads", "likes", "trending_score", "last_modified", "created_at"]

PATIENCE_S = 20.0
_CONNECT_TIMEOUT_S = 5.0
# What a list says of each model; without it the hub leaves out the sizes.
_PROPERTIES: tuple[
    Literal["downloads", "likes", "gated", "safetensors", "pipeline_tag", "tags"], ...
] = ("downloads", "likes", "gated", "safetensors", "pipeline_tag", "tags")


@dataclass(frozen=True, slots=True)
class HubQuery:
    """What the hub is asked for.

    Parameters
    ----------
    text, task, sort
        See `ollm_widgets.models.search.search_models`.
    limit
        Most models that the hub is asked for.
    """

    text: str
    task: str | None
    sort: HubSort
    limit: int


def find_on_hub(
    query: HubQuery,
    endpoint: str,
    take: Callable[[FoundModel], bool],
    cancel: CancelFlag | None = None,
) -> None:
    """Hand the models that the hub lists to `take`, until it has enough.

    Only models with safetensors are asked for. The client waits for the hub as long as it takes;
    here it works in a thread that is left behind after 20 seconds, or when `cancel` is set.

    Parameters
    ----------
    query
        What to ask for.
    endpoint
        Address of the hub.
    take
        Called in the other thread with each model; returns whether it wants more.
    cancel
        Looked at every tenth of a second.

    Raises
    ------
    HubUnavailableError
        When the hub does not answer in time.
    Cancelled
        When `cancel` was set.
    Exception
        What ``huggingface_hub`` raises; see `ollm_widgets.models.hub_errors.hub_errors`.
    """
    deadline_s = time.monotonic() + PATIENCE_S

    def ask(stop: threading.Event) -> None:
        _require_connection(endpoint)
        for info in _listed(query, endpoint):
            if stop.is_set() or not take(describe_listed(info)):
                return

    def check_deadline() -> None:
        if time.monotonic() > deadline_s:
            host = host_of(endpoint)
            raise HubUnavailableError(
                f"{host} did not list models within {PATIENCE_S:.0f} s.",
                host=host,
                hint="Try again in a moment. Models on this machine work without it.",
            )

    with Crew(1, cancel, "The search") as crew:
        crew.run([ask], check_deadline)


def _require_connection(endpoint: str) -> None:
    """Fail at once where nobody listens; a list is tried again for half a minute."""
    from huggingface_hub import get_session

    get_session().head(
        f"{endpoint}/api/models?limit=1", headers=request_headers(), timeout=_CONNECT_TIMEOUT_S
    )


def _listed(query: HubQuery, endpoint: str) -> Iterable[ModelInfo]:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, library_name="ollm-widgets").list_models(
        search=query.text or None,
        filter="safetensors",
        pipeline_tag=query.task,
        sort=query.sort,
        limit=query.limit,
        expand=list(_PROPERTIES),
    )


def describe_listed(info: ModelInfo) -> FoundModel:
    """Turn what the hub lists of a model into a search's item."""
    weights = info.safetensors
    return FoundModel(
        reference=info.id,
        name=info.id,
        where="hub",
        repo_id=info.id,
        parameters=weights.total if weights is not None else None,
        bytes_on_disk=_bytes_of(weights.parameters) if weights is not None else None,
        task=info.pipeline_tag,
        modalities=modalities_of_task(info.pipeline_tag),
        licence=licence_of(info),
        gated=None if info.gated is None else bool(info.gated),
        downloads=info.downloads,
        likes=info.likes,
    )


def _bytes_of(elements: dict[str, int]) -> int | None:
    """Bytes of the weights from the elements of each dtype; ``None`` for an unknown dtype."""
    total_bits = 0
    for name, count in elements.items():
        bits = dtype_bits(name)
        if bits is None:
            return None
        total_bits += bits * count
    return total_bits // 8
