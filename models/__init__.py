"""Models for tests, the demo and the benchmarks, built in code. The wheel does not install them."""
