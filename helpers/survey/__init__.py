"""Many models, words and layers in one table: `python -m helpers.survey`."""
