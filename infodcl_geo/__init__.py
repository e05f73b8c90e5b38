"""Graph-based recommendation with informative-noise diffusion (InfoDCL) on PyTorch Geometric."""

__version__ = "0.1.0"
