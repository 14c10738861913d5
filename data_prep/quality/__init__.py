"""The quality page: what a preparation made of a corpus, to be looked at before training on it."""
