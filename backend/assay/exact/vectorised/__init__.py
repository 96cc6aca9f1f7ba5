"""Whole kernels at once, in numpy, bit-equal to `step.py`: what `evaluator.py` is made of."""
