"""What a host's node is called, and errors that say where they happened."""

from __future__ import annotations

from typing import Any

from ollm_widgets.errors import OllmError


def node_name(node_id: str) -> str:
    """Return what a person calls the node of that id: its name where it has one, or its address."""
    for node in known_nodes():
        if node["NodeID"] == node_id:
            return str(node.get("NodeName") or node["NodeManagerAddress"])
    return node_id[:8]


def known_nodes() -> list[dict[str, Any]]:
    """Return what Ray says of each node, of those that have gone too."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def placed(error: BaseException, node: str) -> BaseException:
    """Have an error say on which node it happened; returns the same error."""
    if isinstance(error, OllmError):
        if not error.message.startswith(_on(node)):
            error.message = f"{_on(node)}{error.message}"
            error.args = (error.message, *error.args[1:])
    else:
        error.add_note(f"It happened on node {node}.")
    return error


def _on(node: str) -> str:
    return f"On node {node}: "
