"""The config a person edits: one change after the other, each of which can be taken back."""

from __future__ import annotations

from collections.abc import Mapping

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.session.edits import Value, parse_edit

MOST_STEPS = 200


class Editing:
    """A config, the values that could not be applied to it, and the way back.

    Not safe for several threads: the session's lock is held around every call.

    Attributes
    ----------
    config
        As it is now; None until a model is chosen.
    unapplied, errors
        Values that could not be applied and what is wrong with them, by field.
    """

    def __init__(self) -> None:
        self.config: RuntimeConfig | None = None
        self.unapplied: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self._past: list[RuntimeConfig] = []
        self._future: list[RuntimeConfig] = []
        self._moving_from: RuntimeConfig | None = None  # the config before a drag that goes on

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        moved = self._moving_from is not None and self._moving_from != self.config
        return bool(self._past or self.unapplied or moved)

    @property
    def can_redo(self) -> bool:
        """Whether something was taken back."""
        return bool(self._future)

    @property
    def moves(self) -> bool:
        """Whether layers are being dragged."""
        return self._moving_from is not None

    def start(self, config: RuntimeConfig) -> None:
        """Take another config; there is no way back to the one before."""
        self.config = config
        self._past.clear()
        self._future.clear()
        self._moving_from = None
        self._forget_unapplied()

    def set(self, field: str, text: str) -> None:
        """Change one field; what cannot be applied stays, with what is wrong with it.

        Raises
        ------
        ConfigError
            If there is no config yet.
        """
        before = self._required(field)
        self._settle()
        # What could not be applied before may go together with the new value.
        older = {name: value for name, value in self.unapplied.items() if name != field}
        self._forget_unapplied()
        config = before
        for name, value in {field: text, **older}.items():
            try:
                changed = config.copy(**{name: parse_edit(name, value)})
                changed.validate()
            except ConfigError as error:
                self.unapplied[name], self.errors[name] = value, str(error)
            else:
                config = changed
        self._step(before, config)

    def place(self, gpu_layers: str, ram_layers: str, *, settled: bool) -> None:
        """Choose how many layers stay on the GPU and in RAM; "" leaves it to the planner.

        While a boundary is dragged (`settled` is false) nothing is added to the way back; the
        whole drag becomes one step of it.

        Raises
        ------
        ConfigError
            If there is no config yet, or a text is no count.
        """
        before = self._required("offload_gpu_layers")
        changes = {
            name: parse_edit(name, text)
            for name, text in (
                ("offload_gpu_layers", gpu_layers),
                ("offload_cpu_layers", ram_layers),
            )
        }
        config = before.copy(**changes)
        config.validate()
        for name in changes:
            self.unapplied.pop(name, None)
            self.errors.pop(name, None)
        if self._moving_from is None:
            self._moving_from = before
        if config != before:
            self.config = config
        if settled:
            self._settle()

    def apply(self, changes: Mapping[str, Value]) -> None:
        """Change several fields in one step.

        Raises
        ------
        ConfigError
            If there is no config yet, or the values cannot work together.
        """
        before = self._required("preset")
        config = before.copy(**changes)
        config.validate()
        self._settle()
        self._forget_unapplied()
        self._step(before, config)

    def undo(self) -> bool:
        """Take the last step back; says whether there was one."""
        self._settle()
        if self.unapplied:
            self._forget_unapplied()
            return True
        return self._swap(self._past, self._future)

    def redo(self) -> bool:
        """Do again what was taken back; says whether there was something."""
        self._settle()
        return self._swap(self._future, self._past)

    def _required(self, field: str) -> RuntimeConfig:
        if self.config is None:
            raise ConfigError(field, "no model is chosen yet.", hint="Pick a model first.")
        return self.config

    def _forget_unapplied(self) -> None:
        self.unapplied.clear()
        self.errors.clear()

    def _settle(self) -> None:
        """End a drag that goes on: what it has changed so far is one step."""
        before, self._moving_from = self._moving_from, None
        if before is not None and self.config is not None:
            self._step(before, self.config)

    def _step(self, before: RuntimeConfig, config: RuntimeConfig) -> None:
        if config == before:
            return
        self._past.append(before)
        del self._past[:-MOST_STEPS]
        self._future.clear()
        self.config = config

    def _swap(self, source: list[RuntimeConfig], target: list[RuntimeConfig]) -> bool:
        if not source or self.config is None:
            return False
        target.append(self.config)
        self.config = source.pop()
        return True
