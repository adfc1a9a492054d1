"""Measuring models: data, calibration, comparison, predictions, inspection."""
