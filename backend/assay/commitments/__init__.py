"""The protocol's commitments, digests and signatures: pure functions, bytes in, bytes out."""
