# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.
