"""The parts of a run; see `bench`."""
