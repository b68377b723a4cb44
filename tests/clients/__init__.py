"""Tests of ``epolllab.clients``."""
