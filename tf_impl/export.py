"""Export as SavedModel and as LiteRT (TFLite), with batch normalization folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from common.catalog import Network
from common.deploy.export.formats import Export, Signature, check_any_size
from common.errors import ConfigError, unknown
from common.layout import nchw_to_nhwc
from tf_impl.deploy import deployed, frozen
from tf_impl.layers import MaxPool2D
from tf_impl.weights import named_layers

__all__ = ["export"]

Function = Callable[[tf.Tensor], list[tf.Tensor]]


def _save_model(function: Function, request: Export) -> tuple[str, str]:
    """Write a SavedModel whose signature `serving_default` maps images to logits."""

    @tf.function(input_signature=[tf.TensorSpec.from_tensor(images) for images in function.inputs])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": function(images)[0]}

    tf.saved_model.save(tf.Module(), request.path, signatures={"serving_default": serve})
    return "images", "logits"


def _save_lite(function: Function, request: Export) -> tuple[str, str]:
    """Write a `.tflite` file. Raises ConfigError for int8 without calibration images."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], function)
    if request.dtype != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request.dtype == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request.dtype == "int8":
        batches = _calibration(request)

        def samples() -> Iterator[list[np.ndarray]]:
            yield from ([batch] for batch in batches)

        converter.representative_dataset = samples
        # Only int8 operations are allowed. Images and logits stay float32, so that callers need no scales.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    request.path.write_bytes(converter.convert())
    return "images", "Identity"


def _calibration(request: Export) -> np.ndarray:
    """Return the calibration images in batches, (batches, N, H, W, C); the first images also fill the last batch."""
    if request.calibration is None:
        raise ConfigError("a LiteRT file of int8 takes its scales from images; give some as `calibration`")
    images = nchw_to_nhwc(request.calibration).astype("float32")
    batch = request.batch or 1
    return np.resize(images, (-(-len(images) // batch), batch, *images.shape[1:]))


_SAVE = {"saved-model": _save_model, "litert": _save_lite}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Write a network as an artifact; see `common.deploy.export.formats.Export`.

    Raises ConfigError for a format of another framework, and if the network does not support the request.
    """
    if request.format not in _SAVE:
        raise unknown("format of TensorFlow's", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    model = deployed(network, tensors)
    if request.format == "litert":
        for _, layer in named_layers(model):
            if isinstance(layer, MaxPool2D):
                layer.repeats_edges = True
    function = frozen(model, request.batch, request.size or (None, None))
    names = _SAVE[request.format](function, request)
    return Signature(*names, "NHWC", {"tensorflow": tf.__version__})
