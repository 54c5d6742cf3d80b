"""Measurements that are no part of the product: what is claimed of it, repeated in numbers."""
