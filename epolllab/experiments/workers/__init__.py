"""Code that runs in child processes of the experiments.

It imports the standard library and the lower half of epolllab only, so that a child
starts in a tenth of a second.
"""
