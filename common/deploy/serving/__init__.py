"""One module per runtime that loads and runs artifacts of `rosetta export`.

Users copy this folder to where they deploy. It needs NumPy and the runtime, and imports nothing else of rosetta. Each
module has `load(path, manifest, threads)`, which returns a session with three methods:

    prepare(x)        images (N, C, H, W) as the runtime takes them
    run(prepared)     the runtime's output, once it is computed
    logits(output)    the output as an array (N, num_classes)

`python common/deploy/serving MANIFEST INPUT.npy OUTPUT.npy` runs an artifact on images.
"""
