"""What happens around each layer of a pass: its weights come, and its times are noted."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from ollm_widgets.weights.arrangement import Arrangement
    from ollm_widgets.weights.homes import LayerHome
    from ollm_widgets.weights.trace import Recorder


class LayerHooks:
    """Hooks on the decoder layers; none on a layer that stays on its device, unless traced.

    Parameters
    ----------
    layers, homes
        The layers in the order of a pass, and where each is.
    """

    def __init__(self, layers: Sequence[nn.Module], homes: Sequence[LayerHome]) -> None:
        self.recorder: Recorder | None = None
        self.cancel: threading.Event | None = None
        self._layers = layers
        self._homes = homes
        self._handles: list[RemovableHandle] = []

    def install(self, arranged: Arrangement) -> None:
        """Hook the layers that stream, and the others too while there is a recorder."""
        self.remove()
        for index, layer in enumerate(self._layers):
            if self.recorder is not None or arranged.streams(index):
                before = partial(self._before, arranged, index)
                after = partial(self._after, arranged, index)
                self._handles += [
                    layer.register_forward_pre_hook(before, with_kwargs=True),
                    layer.register_forward_hook(after),
                ]

    def remove(self) -> None:
        """Let the layers be as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(
        self,
        arranged: Arrangement,
        index: int,
        _layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        recorder = self.recorder
        if recorder is not None:
            hidden = args[0] if args else kwargs["hidden_states"]
            recorder.begin(index, self._homes[index].tier, hidden.shape[1], first=index == 0)
        arranged.take(index, self.cancel, recorder)
        if recorder is not None:
            recorder.ready()

    def _after(
        self, arranged: Arrangement, index: int, _layer: nn.Module, _args: Any, _output: Any
    ) -> None:
        if self.recorder is not None:
            self.recorder.end()
        arranged.give_back(index)
