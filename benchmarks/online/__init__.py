"""Benchmarks of the online half: stores, releases and the scorer."""
