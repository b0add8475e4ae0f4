"""The parts of ``benchmark_engines.py``."""
