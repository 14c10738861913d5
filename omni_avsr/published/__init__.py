"""Checkpoints of Omni-AVSR's authors: read safely, told apart, renamed, rebuilt."""
