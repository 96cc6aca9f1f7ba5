"""The exact profile: ONNX graphs as programs of arithmetic that a contract can check step by step.

Pure: bytes and arrays in, bytes and arrays out. Rules: contracts/SPEC.md §10 and §11.
"""
