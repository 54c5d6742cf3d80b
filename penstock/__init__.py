"""Penstock as it is run: settings, the command line, the local stack. The only package that wires all others."""
