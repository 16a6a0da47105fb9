"""The networks of others, as near to ours as each model zoo has them.

Each module of this package gives what a port's `deploy` does (see `common.backends.sessions`), with weights of the
zoo's own making, and `work(network)`: the multiply-accumulates of its counterpart for one image. Run as a program, with
networks as JSON, this says the work of each: `python -m benchmarks.zoo MODULE '{"resnet18": {}}'`.
"""
