"""Which networks take images of any size."""

from __future__ import annotations

from common import reference
from common.catalog import Network
from common.errors import ConfigError

__all__ = ["check_any_size"]


def check_any_size(network: Network) -> None:
    """Raise ConfigError where a network's weights fit one size of image, since it flattens images into features."""
    height, width = network.config.input_size
    other = network.configured(input_size=(2 * height, 2 * width))
    if reference.describe(other).manifest != reference.describe(network).manifest:
        raise ConfigError(
            f"{network.name} flattens images into features, so its weights fit one size of them; "
            f"give the size ({height}x{width} as it is configured) in place of any"
        )
