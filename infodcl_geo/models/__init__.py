"""Complete recommenders over the layers of :mod:`infodcl_geo.nn`."""
