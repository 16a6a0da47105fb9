"""Source code of the implementations, side by side."""
