"""Tests of ``epolllab.external``, on real programs: nginx, redis, node, asyncio, and C."""
