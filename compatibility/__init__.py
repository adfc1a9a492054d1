"""Runs folders of .tflite files through the whole program and judges every result; `python -m compatibility`.

Each file is examined by a process of its own (`child.py`), which writes down one check after the other and is watched
from outside (`watch.py`, `examine.py`).  `table.py` and `page.py` show what came out.
"""
