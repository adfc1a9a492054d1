"""Measurements of speed and accuracy, and the tables that README.md and docs/performance.md show."""
