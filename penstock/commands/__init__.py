"""One module a command, or a family of them; `penstock.cli` finds them and calls their `register(app)`."""
