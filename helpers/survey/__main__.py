"""`python -m helpers.survey`."""

from helpers.survey.run import main  # not the functions of __main__: workers could not import those

if __name__ == "__main__":
    raise SystemExit(main())
