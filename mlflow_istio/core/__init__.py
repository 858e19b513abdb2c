"""Pure values and functions: no network, files, clock or randomness."""
