"""Comparisons that need real servers, processes or thousands of connections.

Level against edge, life cycles, thundering herds, conformance checks of the how-to's
server, the cost of observing, and idle connections.
"""
