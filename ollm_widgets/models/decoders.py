"""Which models optimized-native can take apart, judged from config and tensor headers alone."""

from __future__ import annotations

from ollm_widgets.models.catalog import GenericModelKind
from ollm_widgets.models.kinds import NATIVE_KINDS
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.shape import ModelShape, WeightInventory


def decoder_obstacle(
    kind: GenericModelKind | None,
    quantization: Quantization | None,
    shape: ModelShape | None,
    weights: WeightInventory | None,
    layers: int | None,
) -> str:
    """Say why optimized-native cannot run a model; empty if nothing stands against it.

    Parameters
    ----------
    kind, quantization, shape, weights
        What is known of the model; of one whose files are not here there are no `weights`.
    layers
        Decoder layers, by whatever source.

    Returns
    -------
    str
        A clause without a full stop: ``it runs models of kind ...``.
    """
    if kind not in NATIVE_KINDS:
        kinds = " and ".join(sorted(NATIVE_KINDS))
        return f"it runs models of kind {kinds}; this one is {kind or 'of an unknown kind'}"
    if quantization is not None and not quantization.runs:
        return f"the checkpoint is {quantization.reason.rstrip('.')}"
    if weights is None:
        return "" if layers else "its layers are known once its files are here"
    return _layers_obstacle(shape, weights)


def _layers_obstacle(shape: ModelShape | None, weights: WeightInventory) -> str:
    found = len(weights.layer_parameters)
    if not found:
        return "no decoder layers were found in the tensor headers"
    if shape is None:
        return "its config does not say how many decoder layers it has"
    if found != shape.layers:
        return (
            f"the tensor headers hold {found} decoder layers, and the config announces "
            f"{shape.layers}"
        )
    return ""
