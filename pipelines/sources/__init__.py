"""Shipped mappings: the default data set and the service's own event log."""
