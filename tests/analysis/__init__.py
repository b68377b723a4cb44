"""Tests of ``epolllab.analysis``."""
