"""Measures Penstock beside the limits of the same machine in the same run, so that figures mean something elsewhere."""
