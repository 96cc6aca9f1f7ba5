"""The benches' load generator: a process of its own that drives one server over many connections."""
