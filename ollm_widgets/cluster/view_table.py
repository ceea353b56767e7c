"""A cluster as a table: a row a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.parts import listed
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.cluster.messages import ClusterView, HeldCopy, HostView
    from ollm_widgets.cluster.options import ClusterOptions


def view_table(options: ClusterOptions, view: ClusterView | None) -> Table:
    """Draw what a registry knows; None for a cluster that is not connected."""
    where = _where(options)
    if view is None:
        return Table(
            title="Cluster", subtitle=where, notes=("Not connected: the first load connects it.",)
        )
    return Table(
        title="Cluster",
        subtitle=where,
        columns=(
            Column("Node", numbers=False),
            Column("In memory", numbers=False),
            Column("Requests"),
            Column("Free"),
        ),
        rows=tuple(
            _row(host, view.pinned) for host in sorted(view.hosts, key=lambda one: one.node)
        ),
        notes=tuple(_notes(view)),
    )


def _where(options: ClusterOptions) -> str:
    if options.is_local:
        return "Ray on this machine"
    if options.address == "auto":
        return "The Ray cluster that this machine belongs to"
    return f"Ray at {options.address}"


def _row(host: HostView, pinned: frozenset[str]) -> TableRow:
    models = [_held(copy, pinned) for copy in host.held]
    models += [f"{name} (loading)" for name in host.loading]
    return TableRow(
        (
            host.node,
            listed(models) if models else "nothing",
            str(sum(host.in_flight.values())),
            format_memory(host.free_bytes),
        )
    )


def _held(copy: HeldCopy, pinned: frozenset[str]) -> str:
    marks = [format_memory(copy.bytes)] if copy.bytes else []
    marks += ["pinned"] if copy.key in pinned else []
    marks += ["busy"] if copy.busy else []
    return f"{copy.name} ({', '.join(marks)})" if marks else copy.name


def _notes(view: ClusterView) -> list[str]:
    notes = []
    if not view.hosts:
        notes.append("No node has a host for models now; a load waits until one is up.")
    if len(view.clients) > 1:
        notes.append(f"{len(view.clients)} notebooks and scripts use it.")
    if view.lost:
        node, why = view.lost[-1]
        notes.append(f"Lost last: {node}: {why}")
    return notes
