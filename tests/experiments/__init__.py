"""Tests of ``epolllab.experiments``."""
