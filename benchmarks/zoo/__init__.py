"""The nearest counterparts of the catalog's networks in public model zoos.

Each module has the functions of a port's `deploy` (see `common.backends.sessions`), with the zoo's own initial weights,
and `work(network)`: the multiply-accumulates of the counterpart for one image. To print the work of several networks:
`python -m benchmarks.zoo MODULE '{"resnet18": {}}'`.
"""
