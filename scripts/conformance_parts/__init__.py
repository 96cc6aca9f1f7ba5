"""What `scripts/conformance` runs."""
