"""Edits of a running model, and the reader's own study (notebooks 09 to 11)."""
