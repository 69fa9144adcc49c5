"""How fast everything is beside its peers: `python -m benchmarks.throughput`; docs/throughput.md says what is compared with what."""
