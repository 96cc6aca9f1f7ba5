"""The demo (`scripts/demo`): the system as real processes on one chain, driven, broken, settled, judged."""
