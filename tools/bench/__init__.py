"""Bench: Shoal beside what people use today, interleaved in one run, everything prepared before the clock.

`python -m tools.bench --help` says what can be chosen; docs/benchmarks/README.md what each clock includes.
"""
