"""The Open Inference Protocol v2 over gRPC: messages, tensors, methods, the server."""
