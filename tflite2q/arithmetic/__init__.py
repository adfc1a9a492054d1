"""The arithmetic of quantized models: the core vocabulary, rounding, rescaling, fixed point, tables."""
