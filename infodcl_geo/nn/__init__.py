"""Layers of InfoDCL and its relatives, usable alone in any PyG model."""
