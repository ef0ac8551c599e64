"""Variables of the environment that several modules read."""

#: Where prometheus_client keeps what several processes count together. It looks for it when it is imported.
METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
