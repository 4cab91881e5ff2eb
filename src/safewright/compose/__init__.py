"""Putting measures together: an audit of one model, a paired comparison of two runs."""
