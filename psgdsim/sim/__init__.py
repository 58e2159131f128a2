"""The simulator: programs in virtual time, on a model of machines and links."""
