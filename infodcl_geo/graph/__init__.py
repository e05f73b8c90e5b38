"""Graphs as PyG SparseTensors, what is similar in them, and their spectra. Nothing here knows of files."""
