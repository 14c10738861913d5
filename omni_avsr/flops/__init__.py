"""The compute ledger: FLOPs of training steps by part of the model, from shapes and lengths alone."""
