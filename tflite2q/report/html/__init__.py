"""A comparison as one HTML file that needs neither network nor scripts."""

from tflite2q.report.html.page import comparison as comparison
from tflite2q.report.html.page import fragment as fragment
