"""Plain baselines: slow and obvious versions of fast code, which tests use as oracles too."""
