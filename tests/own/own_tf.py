"""A user's Keras model: a Sequential in a subclass, layers in a list, and a layer with its own activation."""

import keras
import tensorflow as tf
from keras import layers


class Net(keras.Model):
    def __init__(self, epsilon: float, keep: float, rectified: bool) -> None:
        super().__init__()
        self.stem = keras.Sequential([layers.ZeroPadding2D(1), layers.Conv2D(4, 3, strides=2, name="conv")])
        self.normalize = layers.BatchNormalization(momentum=keep, epsilon=epsilon)
        self.later = [
            layers.Conv2D(8, 3, padding="same", groups=2, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(6, activation="relu" if rectified else None),
            layers.Dropout(0.5),
            layers.Dense(5),
        ]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.nn.relu(self.normalize(self.stem(x)))
        for layer in self.later:
            x = layer(x)
        return x


def make(epsilon: float = 1e-3, keep: float = 0.8, rectified: bool = True) -> keras.Model:
    return Net(epsilon, keep, rectified)


NAMES = {
    "stem.conv": "conv1",
    "normalize": "bn1",
    "later.0": "conv2",
    "later.1": "pool",
    "later.3": "fc1",
    "later.5": "fc2",
}
