"""Train the demo's models on real data and export them to ONNX (`scripts/train`)."""
