"""Tests of ``epolllab.frames``."""
