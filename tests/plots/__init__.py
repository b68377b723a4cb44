"""Tests of ``epolllab.plots``."""
