"""Benchmarks of Flowmesh: `python -m benchmarks`; the method is in README.md beside this file."""
