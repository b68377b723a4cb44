"""Tests of ``epolllab.notebook``."""
