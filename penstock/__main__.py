"""`python -m penstock`: the command line without the script, for processes that start one another."""

from penstock.cli import main

if __name__ == "__main__":
    main()
