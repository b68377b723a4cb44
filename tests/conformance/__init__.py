"""Rules that hold for every poller, trigger and life cycle, and attacks on them."""
