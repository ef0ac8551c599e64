"""The Open Inference Protocol (KServe v2): models as named tensors, over REST and gRPC."""
