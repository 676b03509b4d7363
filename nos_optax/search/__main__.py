"""`python -m nos_optax.search`."""

from nos_optax.search.command import main

if __name__ == "__main__":
    main()
