"""``%ollm config``: what stays in memory, for how long, and where else there is memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_seconds
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.session.kernel_manager import LOCAL, KernelCluster
from ollm_widgets.settings import cluster_setting, residency_setting, residency_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollm_widgets.runtime.residency.manager import RuntimeManager

_MEANING = {
    "max_loaded": "models in memory at most",
    "idle_timeout": "without use for so long, a model gives its memory back",
    "busy_timeout": "an answer that runs longer is stopped",
    "busy_wait": "how long a load, or an unload, waits for who is busy",
    "pressure": "fuller than this, an idle model makes room",
    "demotes": "an idle model goes to RAM before it leaves",
    "cluster": "where models of the device ray run",
}
OPTIONS = tuple(_MEANING)
_SUGGESTED = {
    "max_loaded": ["1", "2", "none"],
    "idle_timeout": ["15m", "1h", "never"],
    "busy_timeout": ["10m", "never"],
    "busy_wait": ["30s", "5m"],
    "pressure": ["90%", "never"],
    "demotes": ["on", "off"],
    "cluster": ["auto", "local"],
}


@dataclass(frozen=True, slots=True)
class OptionsListing(Tabular):
    """The options of a manager, with where each comes from.

    Parameters
    ----------
    options
        Limits and times.
    environment
        Those that the environment sets.
    cluster
        Where models of the device ``ray`` run, and where that comes from.
    """

    options: ResidencyOptions
    environment: Mapping[str, object]
    cluster: tuple[str, str]

    def table(self) -> Table:
        """One row an option."""
        defaults = asdict(ResidencyOptions())
        return Table(
            title="Models in memory",
            subtitle="%ollm config NAME VALUE changes one until the kernel ends",
            columns=(
                Column("Option", numbers=False),
                Column("Value"),
                Column("From", numbers=False),
                Column("Meaning", numbers=False),
            ),
            rows=(
                *(
                    TableRow(
                        (
                            _typed(name),
                            value_text(name, value),
                            self._source(name, value, defaults[name]),
                            _MEANING[_typed(name)],
                        )
                    )
                    for name, value in asdict(self.options).items()
                ),
                TableRow(("cluster", *self.cluster, _MEANING["cluster"])),
            ),
        )

    def _source(self, name: str, value: object, default: object) -> str:
        if name in self.environment and self.environment[name] == value:
            return "environment"
        return "default" if value == default and name not in self.environment else "set here"


def list_options(manager: RuntimeManager) -> OptionsListing:
    """Look at the options as they are."""
    return OptionsListing(manager.options, dict(residency_settings()), _cluster_of(manager))


def change_option(manager: RuntimeManager, name: str, text: str) -> str:
    """Change one option of a running manager; returns what it is now, in a sentence.

    Raises
    ------
    ConfigError
        When there is no such option, or the text cannot be understood.
    RuntimeBusyError
        For another cluster while something runs on the one that is in use.
    """
    if name.strip().lower() == "cluster":
        chosen = cluster_setting(text)
        manager.use_cluster(KernelCluster(chosen))
        return f'cluster is {chosen} now; device="ray" runs a model there.'
    setting = residency_setting(name, text)
    manager.configure(**setting)
    ((option, value),) = setting.items()
    said = f"{_typed(option)} is {value_text(option, value)} now."
    count = len(manager.residents())
    if option == "max_loaded" and isinstance(value, int) and count > value:
        said += f" {count} models are in memory; the least recently used leave with the next load."
    return said


def suggested_values(name: str) -> list[str]:
    """Values of an option that people choose."""
    return _SUGGESTED.get(name, [])


def value_text(name: str, value: object) -> str:
    """Say a value as a person types it, or nearly so."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float) and name.endswith("_s"):
        never = value == 0 and name != "busy_wait_s"
        return "never" if never else format_seconds(value)
    if isinstance(value, float):
        return f"{value:.0%}" if value else "never"
    return str(value)


def _cluster_of(manager: RuntimeManager) -> tuple[str, str]:
    """Say where a manager's cluster is, and who says so."""
    cluster = manager.cluster
    if cluster is None:
        return "none", "default"
    if not isinstance(cluster, KernelCluster):
        return "its own", "set here"
    if not cluster.is_chosen:
        return LOCAL, "default"
    return cluster.setting, "environment" if cluster.setting == cluster_setting() else "set here"


def _typed(option: str) -> str:
    return option.removesuffix("_s")
