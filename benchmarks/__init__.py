"""Measurements that are too slow or too machine-dependent for tests."""
