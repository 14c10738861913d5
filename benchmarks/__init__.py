"""Speed and memory of training and decoding: ``python -m benchmarks.run`` (``make bench``). Never a test."""
