"""The .tflite file format: reading into and writing from the dialect."""
