"""Timing model files on a device."""
