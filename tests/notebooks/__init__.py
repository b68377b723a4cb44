"""The notebooks: their form, and that they run."""
