"""Models as freestanding C for microcontrollers: no runtime, no heap, one arena."""
