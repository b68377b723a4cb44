"""Tests of ``epolllab.recording``."""
