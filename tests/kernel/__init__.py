"""Tests of ``epolllab.kernel``."""
