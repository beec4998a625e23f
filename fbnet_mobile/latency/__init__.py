"""Measuring blocks on a device, and the table of what was measured."""
