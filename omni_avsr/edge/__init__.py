"""Running on a device: what a model takes in memory and time, and processes that are held to a limit."""
