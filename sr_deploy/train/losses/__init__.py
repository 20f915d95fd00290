"""Terms of the generator's loss, one in each module; `registry` finds them by the name of their file."""
