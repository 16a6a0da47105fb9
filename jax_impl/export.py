"""Export from JAX: StableHLO, and with TensorFlow installed SavedModel and LiteRT. Batch norm is folded in all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import flax
import jax
import jax.export
import numpy as np
from flax import nnx

from common.backends.environments import install_hint
from common.catalog import Network
from common.deploy.export.formats import Export, Signature, check_any_size
from common.errors import BackendError, ConfigError, unknown
from common.layout import nchw_to_nhwc
from jax_impl.deploy import deployed
from jax_impl.layers import MaxPool

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["export"]

_PLATFORMS = ("cpu", "cuda")
"""Platforms that an exported program runs on. The weights are stored once."""


def _shape(model: nnx.Module, request: Export) -> str:
    """Return the shape (N, H, W, C) of images, with letters for dimensions of any size."""
    height, width = request.size or ("h", "w")
    return f"{request.batch or 'n'}, {height}, {width}, {model.network.config.in_channels}"


def _save_stable_hlo(model: nnx.Module, request: Export) -> tuple[str, str]:
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape(_shape(model, request)), np.dtype(request.dtype))
    program = jax.export.export(jax.jit(model), platforms=_PLATFORMS)(images)
    try:
        serialized = program.serialize()
    except ImportError:
        raise BackendError("jax.export needs flatbuffers to save programs: pip install flatbuffers") from None
    request.path.write_bytes(serialized)
    return "images", "logits"


def _as_tensorflow(model: nnx.Module, request: Export, platforms: tuple[str, ...]) -> Any:
    """Return the model as a `tf.function` of one operation that holds its StableHLO, without gradient."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    convert = jax2tf.convert(
        model,
        polymorphic_shapes=[_shape(model, request)],
        with_gradient=False,
        native_serialization_platforms=platforms,
    )
    dtype = "float64" if request.dtype == "float64" else "float32"
    shape = (request.batch, *(request.size or (None, None)), model.network.config.in_channels)
    return tf.function(convert, input_signature=[tf.TensorSpec(shape, dtype, "images")], autograph=False)


def _save_model(model: nnx.Module, request: Export) -> tuple[str, str]:
    """Write a SavedModel with a signature `serving_default` from images to logits."""
    import tensorflow as tf

    answer = _as_tensorflow(model, request, _PLATFORMS)

    @tf.function(input_signature=answer.input_signature, autograph=False)
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": answer(images)}

    tf.saved_model.save(tf.Module(), request.path, signatures={"serving_default": serve})
    return "images", "logits"


def _save_lite(model: nnx.Module, request: Export) -> tuple[str, str]:
    """Write a `.tflite` file. Raises ConfigError for int8 without calibration images, or without a fixed shape."""
    import tensorflow as tf

    function = _as_tensorflow(model, request, ("cpu",))
    # TFLite cannot divide 64-bit integers, with which JAX would compute sizes.
    with jax.enable_x64(False):
        concrete = function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function)
    if request.dtype != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request.dtype == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request.dtype == "int8":
        batches = _calibration(request)

        def samples() -> Iterator[list[np.ndarray]]:
            yield from ([batch] for batch in batches)

        converter.representative_dataset = samples
        # Operations that stay in floats are errors, but images and logits are floats, so that callers need no scales.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    request.path.write_bytes(converter.convert())
    return "images", "Identity"


def _calibration(request: Export) -> np.ndarray:
    """Return the calibration images in batches, (batches, N, H, W, C). The first images also fill up the last batch."""
    if request.calibration is None:
        raise ConfigError("a LiteRT file of int8 takes its scales from images; give some as `calibration`")
    if request.batch is None or request.size is None:
        # TensorFlow's calibrator crashes on an operation that holds StableHLO of unknown shape.
        raise ConfigError(
            "a LiteRT file of int8 from JAX has one batch and size; give both, or export TensorFlow's port"
        )
    images = nchw_to_nhwc(request.calibration).astype("float32")
    count = -(-len(images) // request.batch)
    return np.resize(images, (count, request.batch, *images.shape[1:]))


_SAVE = {"stablehlo": _save_stable_hlo, "saved-model": _save_model, "litert": _save_lite}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Export a network; see `common.deploy.export.formats.Export`.

    Raises ConfigError if JAX cannot write the format, or if the network or format does not support the request;
    BackendError if a package that the format needs is missing.
    """
    if request.format not in _SAVE:
        raise unknown("format of JAX's", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    versions = {"jax": jax.__version__, "flax": flax.__version__}
    if request.format != "stablehlo":
        versions["tensorflow"] = _tensorflow_version()
    model = deployed(network, tensors)
    if request.format == "litert":
        for _, module in nnx.iter_modules(model):
            if isinstance(module, MaxPool):
                module.repeats_edges = True
    names = _SAVE[request.format](model, request)
    return Signature(*names, "NHWC", versions)


def _tensorflow_version() -> str:
    try:
        import tensorflow as tf
    except ImportError:
        raise BackendError(
            f"this format takes TensorFlow beside JAX; install the environment jax_tf {install_hint('jax_tf')}"
        ) from None
    return tf.__version__
