"""How each runtime serves an artifact: nothing here imports this project, for it is what a user copies.

`python common/deploy/serving MANIFEST INPUT.npy OUTPUT.npy` runs an artifact on images (N, C, H, W).
"""
