"""What models are measured by: data, calibration, comparison, predictions, and what a model is made of."""
