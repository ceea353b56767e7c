"""What a manager may keep, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ResidencyOptions:
    """Limits and times of a manager. Times are seconds.

    Parameters
    ----------
    max_loaded
        Most runtimes in memory, demoted ones included; None for no limit.
    idle_timeout_s
        After so long without use a runtime is demoted, and after as long again unloaded; 0 never.
    busy_timeout_s
        A request that runs longer is cancelled; 0 never.
    busy_wait_s
        How long a newcomer, or an unload, waits for who is busy.
    pressure
        Share of a memory in use, other processes included, above which one idle runtime a tick
        makes room; 0 never.
    demotes
        Whether an idle runtime goes to host memory before it leaves.
    """

    max_loaded: int | None = None
    idle_timeout_s: float = 900.0
    busy_timeout_s: float = 0.0
    busy_wait_s: float = 60.0
    # A plan leaves 5 % of a memory free at least, and comes true within 1 or 2.
    pressure: float = 0.98
    demotes: bool = True

    def __post_init__(self) -> None:
        for name in ("max_loaded", "idle_timeout_s", "busy_timeout_s", "busy_wait_s", "pressure"):
            value = getattr(self, name)
            no_limit = name == "max_loaded" and value is None
            if not no_limit and not isinstance(value, int | float):
                raise ConfigError(name, f"must be a number, got {value!r}.")
        if self.max_loaded is not None and self.max_loaded < 1:
            raise ConfigError("max_loaded", f"must be at least 1, got {self.max_loaded}.")
        for name in ("idle_timeout_s", "busy_timeout_s", "busy_wait_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(name, f"must be 0 or more seconds, got {value}.")
        if not 0 <= self.pressure <= 1:
            raise ConfigError("pressure", f"must be between 0 and 1, got {self.pressure}.")
