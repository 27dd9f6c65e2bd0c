"""Measurements of the forwarding loops: a load of our own, rivals, a table and a plot."""
