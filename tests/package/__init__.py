"""Tests of the package as a whole: its layout, its command, its data."""
