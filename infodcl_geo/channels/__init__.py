"""Metadata channels: a graph or features become one vector of metadata per item. One kind a file."""
