"""Requests to the hub with the client's own login, and the first of them: what is there."""

from __future__ import annotations

from collections.abc import Mapping

from ollm_widgets.errors import OllmError
from ollm_widgets.models.crew import Crew
from ollm_widgets.models.download_errors import DownloadErrors
from ollm_widgets.models.hub_faults import HubFault, explain, request_errors
from ollm_widgets.models.hub_listing import HubListing, list_files
from ollm_widgets.models.transfer import RETRY


def ask_for_files(crew: Crew, errors: DownloadErrors) -> HubListing:
    """Ask for the files, again where the hub is busy; not where it cannot be reached at all."""

    def ask() -> HubListing | HubFault | OllmError:
        failures = 0
        while True:
            try:
                return list_files(errors.repo_id, errors.revision, errors.endpoint)
            except OllmError as error:
                return error
            except (TypeError, KeyError, AttributeError):
                return HubFault("unexpected", "its reply is not what a hub sends")
            except request_errors() as error:
                fault = explain(error, secret_of(request_headers()))
            failures += 1
            if (
                not fault.is_transient()
                or fault.kind == "unreachable"
                or failures >= RETRY.attempts
                or crew.stop.wait(RETRY.pause_s(failures, fault))
            ):
                return fault

    answer = crew.call(ask)
    if isinstance(answer, HubFault):
        raise errors.of_fault(answer)
    if isinstance(answer, OllmError):
        raise answer
    return answer


def request_headers() -> dict[str, str]:
    """Headers that ``huggingface_hub`` sends, the login among them where there is one."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazy there

    headers: dict[str, str] = build_hf_headers(library_name="ollm-widgets")
    return headers


def secret_of(headers: Mapping[str, str]) -> str:
    """The token in request headers, which no message may repeat; empty when there is none."""
    return headers.get("authorization", "").removeprefix("Bearer ")
