"""Tools of the repository: `python -m tools.build` and its neighbours; `make help` lists them."""
