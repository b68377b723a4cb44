"""Tests of ``epolllab.widgets``."""
