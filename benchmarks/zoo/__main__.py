"""Print the multiply-accumulates of a zoo's networks as JSON; see `benchmarks.zoo`."""

from __future__ import annotations

import importlib
import json
import sys

from common import catalog

module = importlib.import_module(sys.argv[1])
networks = {name: catalog.get(name, **config) for name, config in json.loads(sys.argv[2]).items()}
print(json.dumps({name: module.work(network) for name, network in networks.items()}))
