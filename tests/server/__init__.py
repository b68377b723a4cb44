"""Tests of ``epolllab.server``."""
