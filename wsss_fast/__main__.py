"""`python -m wsss_fast`: the command line."""

from wsss_fast.cli import main

if __name__ == "__main__":
    main()
