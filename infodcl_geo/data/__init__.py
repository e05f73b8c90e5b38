"""From raw files and frames to interactions with dense ids and a split; named and generated data sets."""
