"""One file for each architecture. A module here that defines `ARCHITECTURE` is known everywhere."""
