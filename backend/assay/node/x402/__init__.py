"""Payment by x402 version 2: scheme `exact` on the deployment's token, by EIP-3009 (SPEC.md §12)."""
