"""Open Inference Protocol v2: requests, answers and extensions, whatever carries them."""
