"""Unified audio-visual speech recognition with one LLM."""
