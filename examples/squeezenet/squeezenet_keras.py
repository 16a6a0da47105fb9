"""The small SqueezeNet with Keras's functional API; every layer with weights has an explicit name."""

from __future__ import annotations

import keras
from keras import layers


def fire(x: keras.KerasTensor, name: str, squeeze: int, expand: int) -> keras.KerasTensor:
    """Conv 1x1, relu, then conv 1x1 and conv 3x3, relu, concatenated: (N, H, W, C) -> (N, H, W, 2e)."""
    x = layers.Conv2D(squeeze, 1, activation="relu", name=f"{name}_squeeze")(x)
    narrow = layers.Conv2D(expand, 1, activation="relu", name=f"{name}_expand1x1")(x)
    wide = layers.Conv2D(expand, 3, padding="same", activation="relu", name=f"{name}_expand3x3")(x)
    return layers.Concatenate()([narrow, wide])


def make() -> keras.Model:
    """Conv 3x3/2, pool, two fires, pool, a fire, dropout, conv 1x1, mean: (N, H, W, 3) -> (N, 10)."""
    image = keras.Input((None, None, 3))
    # Keras's padding 'same' is asymmetric for strides above 1.
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = fire(x, "fire2", squeeze=8, expand=16)
    x = fire(x, "fire3", squeeze=8, expand=16)
    x = layers.MaxPooling2D(2, name="pool3")(x)
    x = fire(x, "fire4", squeeze=12, expand=24)
    x = layers.Dropout(0.5)(x)
    x = layers.Conv2D(10, 1, activation="relu", name="classifier")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))
