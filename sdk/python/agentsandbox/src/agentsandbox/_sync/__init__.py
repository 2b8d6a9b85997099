# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.
"""The client for ordinary code, generated from ``_sync``."""
