"""Source of the same layers and networks in every framework, aligned side by side."""
