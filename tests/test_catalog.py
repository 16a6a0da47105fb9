"""The catalog: what its configurations take and refuse."""

from __future__ import annotations

import pytest
from support import FACTS

from common import catalog
from common.errors import ConfigError


def test_catalog_has_all_networks_of_the_facts_and_all_families() -> None:
    # bn_lenet_scratch is bn_lenet again, so the facts hold it once.
    assert list(catalog.NETWORKS) == [
        "lenet",
        "alexnet",
        "vgg11",
        "vgg11_small",
        "nin",
        "googlenet",
        "bn_lenet",
        "bn_lenet_scratch",
        "resnet18",
        "densenet",
        "regnetx32",
    ]
    assert set(FACTS) == set(catalog.NETWORKS) - {"bn_lenet_scratch"}
    assert list(catalog.FAMILIES) == ["vgg", "resnet", "resnext", "densenet", "anynet"]


@pytest.mark.parametrize("name", FACTS)
def test_default_inputs_equal_the_facts(name: str) -> None:
    assert [1, *catalog.get(name).input_shape] == FACTS[name]["input_shape_nchw"]


def test_overrides_do_not_change_the_catalog() -> None:
    network = catalog.get("resnet18", num_classes=7, in_channels=3, input_size=[57, 83], arch=[[1, 8], [2, 16]])
    assert network.input_shape == (3, 57, 83)
    assert network.config.num_classes == 7
    assert network.config.arch == ((1, 8), (2, 16))
    assert catalog.get("resnet18").input_shape == (1, 96, 96)
    hash(network)  # frozen all the way down


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnt18", {}, "no network 'resnt18'; did you mean resnet18"),
        ("lenet", {"num_clases": 3}, "no setting of lenet called 'num_clases'; did you mean num_classes"),
        ("lenet", {"arch": [[1, 8]]}, "no setting of lenet called 'arch'"),
        ("lenet", {"num_classes": "7"}, "`num_classes` (='7') must be a positive integer"),
        ("lenet", {"num_classes": True}, "`num_classes` (=True) must be a positive integer"),
        ("lenet", {"in_channels": 0}, "`in_channels` (=0) must be a positive integer"),
        ("lenet", {"input_size": 28}, "`input_size` (=28) must be [height, width]"),
        ("lenet", {"input_size": [28]}, "`input_size` (=[28]) must be [height, width]"),
        ("lenet", {"input_size": [28, 2.5]}, "`input_size: width` (=2.5) must be a positive integer"),
        ("alexnet", {"dropout": 1}, "`dropout` (=1) must be a number from 0 to below 1"),
        ("resnet", {"arch": []}, "`arch` (=[]) must be a list of [blocks, channels], one for each stage"),
        ("resnet", {"arch": [[1, 8, 3]]}, "stage 1 is [1, 8, 3]"),
        ("vgg", {"arch": [[1, 8], [0, 8]]}, "`arch: convs of stage 2` (=0) must be a positive integer"),
        ("densenet", {"arch": [4, "4"]}, "`arch: layers of stage 2` (='4') must be a positive integer"),
        ("anynet", {"arch": [[1, 30, 16, 1]]}, "stage 1: the bottleneck's channels (round(30 * 1) = 30)"),
        ("resnext", {"arch": [[1, 32, 8, 0]]}, "`arch: multiplier of stage 1` (=0) must be a positive number"),
    ],
)
def test_error_for_an_invalid_configuration_shows_the_value_and_what_is_expected(
    name: str, overrides: dict, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        catalog.get(name, **overrides)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
