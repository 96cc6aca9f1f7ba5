"""The demo (`scripts/demo`): the system as real processes on a local chain, driven, broken, settled, checked."""
