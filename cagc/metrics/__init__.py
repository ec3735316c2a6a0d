"""What a generator costs (macs, latency) and how good its images are (frechet in named features, fidelity)."""
